# Each target that needs .venv creates it if it is missing, or updates it if its requirements have changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BENCHMARKS := crf panoptic psa transforms upsample
# Tests use one thread each, so that each core gets its own worker; more would disturb tests that measure memory.
# `worksteal` gives a worker consecutive tests, which share a module's fixtures, and balances the load at the end.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(8, os.cpu_count() or 1))')
PARALLEL = --numprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test slow all coverage check format bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Of the processes that tests start, too.
test slow all coverage: export OMP_NUM_THREADS = 1

demo: $(INSTALLED) ## train, evaluate, predict and report on synthetic street scenes: minutes on two cores
	$(BIN)/atrous demo

test: $(INSTALLED) ## run the fast tests
	$(BIN)/pytest -m "not slow" $(PARALLEL)

slow: $(INSTALLED) ## run the slow tests: killed and resumed runs, many processes, the demo's score
	$(BIN)/pytest -m slow $(PARALLEL)

all: $(INSTALLED) ## run the fast and the slow tests together, which takes less time than one after the other
	$(BIN)/pytest $(PARALLEL)

coverage: $(INSTALLED) ## run the fast tests, at half their speed, and print how much of the code they reach
	$(BIN)/pytest -m "not slow" $(PARALLEL) --cov --cov-report=term

check: $(INSTALLED) ## check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## fix lint where possible, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## measure time and memory against the alternatives
	set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

$(INSTALLED): pyproject.toml constraints.txt
	@echo "== installing into .venv (once; a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
