# make pi     sets everything up and runs the example on five local machines
# make test   sets everything up and runs the tests; ARGS="-k wire" goes to pytest
# make lint   ruff, strict mypy, pyright, layer contracts
# make bench  every benchmark in one table; ARGS="--quick" takes two minutes
# make fuzz   whatever reads what others send, for FUZZ seconds (60) a target; TARGETS="wire link" for some
# make clean  removes what the other targets made
#
# Needed beforehand: python3 (3.11 or newer), git, make. Each target installs only what it uses; a stamp file a
# group of dependencies makes the second run instant.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
ARGS   ?=
FUZZ   ?= 60
TARGETS ?= wire channel link errors control hello stage0 head listing frame

# Byte code makes the second start of every machine faster; an environment that forbids it would be measured instead.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: pi test lint format bench fuzz clean
.DELETE_ON_ERROR:

pi: $(STAMPS)/core
	$(BIN)/python examples/bigpi.py $(ARGS)

test: $(STAMPS)/test
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMPS)/test $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright tests/typing
	$(BIN)/lint-imports

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/bench $(STAMPS)/test
	$(BIN)/python benchmarks/table.py $(ARGS)

fuzz: $(STAMPS)/test $(STAMPS)/fuzz
	@for target in $(TARGETS); do echo "== $$target"; $(BIN)/python -m tests.fuzz $$target -max_total_time=$(FUZZ) $(ARGS) || exit 1; done

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip learned dependency groups (PEP 735) in 25.1, and the one that a new environment gets is often older.
$(STAMPS)/core: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"bigmachine needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=python3.12, say")'
	@test -x $(BIN)/python || echo "making $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test $(STAMPS)/lint $(STAMPS)/bench $(STAMPS)/fuzz: $(STAMPS)/core
	$(PIP) install --group $(@F)
	@touch $@
