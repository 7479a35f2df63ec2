"""The plug-in for pytest that runs the conformance suite: `pytest --bigmachine-system=NAME`.

It is loaded by its entry point wherever the library is installed (otherwise by `-p bigmachine.testing.plugin`), and
does nothing without that option. NAME is any that `bigmachine.start` takes: one of the library's own systems, one that
an installed plug-in brings, or one that a `conftest.py` of the project registers by `bigmachine.register_system`. Its
options come from the environment and the configuration file, as for a program. With test files on the command line
only those are run, and the option is there for their fixtures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_FIXTURES = "bigmachine.testing.conformance.fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("bigmachine", "conformance of a System of bigmachine")
    group.addoption("--bigmachine-system", metavar="NAME", help="run the conformance suite on this System")
    group.addoption(
        "--bigmachine-patience",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="how long its machines may take to come up (default: 60)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the suite as what is run."""
    if config.getoption("--bigmachine-system") is None:
        return
    import bigmachine.testing.conformance as suite

    for module in suite.MODULES:
        pytest.register_assert_rewrite(f"{suite.__name__}.{module}")
    config.pluginmanager.import_plugin(_FIXTURES)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        folder = Path(suite.__file__).parent
        config.args = [str(folder / f"{module}.py") for module in suite.MODULES]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is tested."""
    name = config.getoption("--bigmachine-system")
    return None if name is None else f"bigmachine: conformance of the System {name!r}"
