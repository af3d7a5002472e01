# The environment is made once; VENV=/somewhere/else reuses one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-all lint env docs

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: env
	@if [ -e runs/digits/run.json ]; then $(BIN)/autoslim run --resume runs/digits; else $(BIN)/autoslim run digits; fi

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not faults and not docs and not nightly"

test-all: lint
	$(BIN)/python -m pytest -m "not nightly"

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
