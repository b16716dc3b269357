# `make demo` and `make test` each do everything from a bare clone: environment, install, run.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint types pytest schemas paper-tables collection-study clean

demo: $(READY)
	$(BIN)/embedstore demo demo

test: lint types pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# One thread a process: the test processes share the cores among themselves.
pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -q

# DATA: a folder with flickr8k-1k and vit-tiny-in1k. Run again after an interruption: it goes on.
paper-tables: $(READY)
	$(if $(DATA),,$(error name the data: make paper-tables DATA=FOLDER))
	$(BIN)/embedstore paper-tables $(DATA) --out paper-tables --page docs/paper-tables.md

# Some minutes on two cores. Run again after an interruption: it goes on.
collection-study: $(READY)
	$(BIN)/embedstore collection-study --out collection-study --page docs/collection-study.md

schemas: $(READY)
	$(BIN)/python schemas/generate.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("embedstore needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
