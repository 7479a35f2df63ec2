from __future__ import annotations

from bigmachine.image.foreign import requirements
from bigmachine.image.foreign.requirements import Distribution

METADATA = """Metadata-Version: 2.1
Name: torch
Requires-Dist: sympy>=1.13
Requires-Dist: triton==3.1; platform_system == "Linux"
Requires-Dist: optree>=0.13; extra == 'optree'

Requires-Dist: not a header any more
"""


def test_extras_are_not_required() -> None:
    assert requirements.required_by(METADATA) == ("sympy>=1.13", 'triton==3.1; platform_system == "Linux"')


def test_kept_distributions_ask_for_what_they_need_and_others_are_asked_for_if_nobody_does() -> None:
    installed = [
        Distribution("app", "1", ("numpy>=1", "rich", 'winlib; sys_platform == "win32"'), True),
        Distribution("rich", "15", (), True),
        Distribution("numpy", "2.1", (), False),
        Distribution("torch", "2.13+cpu", ("numpy",), False),
    ]
    # rich goes as it is, numpy is asked for by app, torch by nobody; winlib only the target can tell.
    assert requirements.asked_for(installed) == ["numpy>=1", "torch==2.13", 'winlib; sys_platform == "win32"']


def test_versions_are_pinned_to_those_installed_without_their_local_part() -> None:
    installed = [Distribution("torch", "2.13+cpu", (), False), Distribution("rich", "15", (), True)]
    assert requirements.constraints(installed, ()) == ["rich==15", "torch==2.13"]
    assert requirements.constraints(installed, {"rich"}) == ["torch==2.13"]


def test_a_resolution_is_read() -> None:
    told = "# a comment\nnumpy==2.4.6\nHTTPX[http2]==0.28.1 ; python_version > '3'\n    # via x==1\n"
    assert requirements.versions(told) == {"numpy": "2.4.6", "httpx": "0.28.1"}


def test_the_package_that_an_error_is_about_is_found() -> None:
    message = "Because doc_opt==0.6.2 has no usable wheels and you require doc-opt"
    assert requirements.mentioned(message, {"rich": 1, "doc-opt": 2}) == "doc-opt"
    assert requirements.mentioned("no route to host", {"rich": 1}) == ""


def test_a_requirement_has_a_name() -> None:
    assert requirements.name_of("Foo.Bar[x,y] >=1; python_version<'3'") == "foo-bar"
    assert requirements.name_of("  ") == ""
