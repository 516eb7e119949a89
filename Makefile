# Graftune. `make` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Snakemake's SLURM plugin asks a controller while it is imported; local targets have none to ask.
LOCAL := SLURM_CONF=/dev/null PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help install demo test unit lint format docs ui bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version); Python 3.11 or newer is needed (make PYTHON=python3.12 ...)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: $(INSTALLED) ## Build .venv from requirements.lock

demo: $(INSTALLED) ## Run config.yaml on the doodles in data/ and show the comparison
	@$(LOCAL) snakemake --cores all
	@echo; cat results/comparison.txt
	@echo; echo "Report:   results/report.html"; echo "Tracking: results/mlflow.db  (make ui)"

test: $(INSTALLED) ## Run all tests; those that lack something skip and say so
	@$(LOCAL) pytest

unit: $(INSTALLED) ## Run the unit tests, two minutes on two cores
	@$(LOCAL) pytest tests/unit

lint: $(INSTALLED) ## Check format, style, types and the import graph
	@$(LOCAL) sh -ec 'ruff format --check .; ruff check .; snakefmt --no-sort --check Snakefile workflow; mypy; lint-imports'

format: $(INSTALLED) ## Format everything
	@$(LOCAL) sh -ec 'ruff format .; ruff check --fix .; snakefmt --no-sort Snakefile workflow'

docs: $(INSTALLED) ## Write the config's schema and its page again
	@$(LOCAL) python -m pipeline.config docs

ui: $(INSTALLED) ## Open the MLflow UI on 127.0.0.1
	@$(LOCAL) python -m pipeline.tracking ui

bench: $(INSTALLED) ## Measure what the README claims
	@$(LOCAL) python benchmarks/run.py

clean: ## Remove results and caches; .venv stays
	rm -rf results .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
