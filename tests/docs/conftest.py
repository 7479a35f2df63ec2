"""Code blocks of the documents are programs, and run as those of tests/cluster do."""

from tests.cluster.conftest import run_program, start_program

__all__ = ["run_program", "start_program"]
