# One command each; `make` alone lists them. Options: PYTHON=python3.12, and for some targets ARGS='…'.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
ARGS ?=
SCENARIO ?=
PEERS ?=
SECONDS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install up crossing test test-long check lint types layers docs site tables format package bench image lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: $(VENV)/.installed ## set up .venv from the lock file

up: install ## run the shop behind the gateway: http://127.0.0.1:8080, Ctrl-C stops everything
	@cd examples/shop && ../../$(BIN)/python -m shopkit.prepare
	@exec $(BIN)/passerelle up examples/shop/gateway.yaml $(ARGS)

crossing: install ## walk the shop from its monolith to its services, under load; ARGS='--runs 3 --json report.json'
	@cd examples/shop && ../../$(BIN)/python -m crossing $(ARGS)

# With CI=true no program may be missing, including the peers of the benchmarks: some tests start them.
test: install $(if $(filter true,$(CI)),$(VENV)/.bench) ## run the tests, in parallel where possible; ARGS='-k NAME', ARGS='-m "not slow"' narrow it
	@scripts/system-packages test $(if $(filter true,$(CI)),bench)
	@scripts/test $(BIN)/python $(ARGS)

test-long: install $(if $(filter true,$(CI)),$(VENV)/.bench) ## run the tests that take long: whole systems under faults, whole guides
	@scripts/system-packages test $(if $(filter true,$(CI)),bench)
	@scripts/test --long $(BIN)/python $(ARGS)

check: lint types layers docs site ## check style, types, layers and documents, and build the site

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_lengths.py

docs: install
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python scripts/reference_tables.py
	$(BIN)/python scripts/check_wording.py

site: install ## build the documentation site in build/site, with warnings as errors; ARGS=--serve shows it
	$(BIN)/python scripts/site.py $(ARGS)

tables: install ## write the tables of the reference pages that are generated from the code
	$(BIN)/python scripts/reference_tables.py --write

format: install ## format the code and apply the fixes of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: install ## build the wheel and the source distribution in dist; TAG=v1.2.3 states the expected version
	@scripts/package $(BIN)/python dist $(TAG)

bench: $(VENV)/.bench ## compare with other programs; SCENARIO=forward PEERS=nginx SECONDS=3 ARGS=--json narrow it
	@scripts/system-packages bench
	@$(BIN)/python -m benchmarks $(SCENARIO) $(if $(PEERS),--peers $(PEERS)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

image: install ## build the images of the Dockerfile with buildah, without a daemon; ARGS=gateway narrows it
	@scripts/image $(ARGS)

lock: ## pin the dependencies again; ARGS=--upgrade selects the newest
	@scripts/lock $(ARGS)

clean: ## remove .venv and the caches of all tools; the databases of the shop stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/make-venv $(VENV) $(PYTHON)

# The stamps make a second call instant. Everything comes with a hash from the lock file, the build backend too.
$(VENV)/.installed: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): about a minute the first time" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.bench: $(VENV)/.installed requirements-bench.lock
	@echo "Installing what the benchmarks compare with" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@
