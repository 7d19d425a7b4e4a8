# Needs Python 3.11 or newer with venv, and make; everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# tests/conftest.py says how many, and who does what; none where a debugger is asked for. One that
# dies (a test that hangs, for one) ends the run: what it had would wait for ever
WORKERS := --numprocesses auto --max-worker-restart 0

.PHONY: help install demo test check lint format bench docs wheel clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create the environment

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(INSTALLED) ## Start the demo shop: a cluster, a router and a page that kills servers
	$(BIN)/python -m demo_app $(ARGS)

test: lint check ## Run every check, as CI does

check: $(INSTALLED) ## Run the tests (ARGS selects some)
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

lint: $(INSTALLED) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Compare with the alternatives, side by side (needs wrk and redis-server)
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(INSTALLED) ## Write what is generated from code: docs/settings.md, the states in docs/architecture.md
	$(BIN)/sessionha config --markdown > docs/settings.md
	$(BIN)/python -m sessionha.topology.diagram docs/architecture.md

wheel: $(INSTALLED) ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove what was made here, the environment included
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
