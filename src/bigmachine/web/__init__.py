"""Diagnostic pages of a session, for a browser, `go tool pprof` and Prometheus [Go: HandleDebug].

    access      who may see them; pure
    app         which page is where, as an ASGI application
    asgi        requests and answers as values
    query       what a URL asks of a profile; pure
    profiles    the profiles at Go's places, and their index
    status      the page of text
    live        the dashboard's stream: a look a second, while somebody looks
    watching    what is looked at: calls, output, machines
    changes     what a viewer has to be told; pure
    static      the files of the dashboard and of the flame graph viewer
    serving     a small server

Loaded when `Session.debug_app` or `serve_debug` is called, which is why the session may name it.
"""

from bigmachine.web.app import App, debug_app
from bigmachine.web.asgi import ASGIApp
from bigmachine.web.live import Watch
from bigmachine.web.serving import ServedPages

__all__ = ["ASGIApp", "App", "ServedPages", "Watch", "debug_app"]
