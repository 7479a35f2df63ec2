"""For a host that cannot load what is compiled for the driver: packages and interpreter, found by uv."""
