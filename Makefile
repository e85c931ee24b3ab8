# Each target makes .venv by itself if there is none, or if what is to be in it has changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test slow check format bench

demo: $(INSTALLED) ## train, evaluate, predict and report on drawn street scenes: minutes on two cores
	$(BIN)/atrous demo

test: $(INSTALLED) ## the fast tests
	$(BIN)/pytest -m "not slow"

slow: $(INSTALLED) ## the long tests: kills and resumes, many processes, the demo's score
	$(BIN)/pytest -m slow

check: $(INSTALLED) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## times and memory, peers side by side
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

$(INSTALLED): pyproject.toml constraints.txt
	@echo "== installing into .venv (once; a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
