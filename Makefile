# Needs python3 >= 3.11 (with venv) and a package index; everything else is installed into .venv.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# most tests wait for something, so run a few more processes than cores; tests with time bounds run alone
TEST_PROCESSES ?= 3
# the first interpreter on PATH that is new enough and can create an environment
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-fast check format soak bench test-compose docs lock wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv from the lock file

$(STAMP): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Kurir needs python3 >= 3.11 with venv on PATH (Debian: apt install python3-venv)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Send 1,000 recipients through both channels of a sandboxed system
	@$(BIN)/kurir demo

up: $(STAMP) ## Run the whole system in the foreground
	@$(BIN)/kurir up

test: $(STAMP) ## Run every test except soak and compose
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile -m "not soak and not compose and not timing"
	$(BIN)/pytest -m "timing and not soak"

test-fast: $(STAMP) ## Run only the unit tests
	$(BIN)/pytest tests/unit

check: $(STAMP) ## Check lint, types, import rules, prose and the compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_prose.py
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: $(STAMP) ## Format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(STAMP) ## Run the fault suite at full time constants
	$(BIN)/pytest -m soak

bench: $(STAMP) ## Run the benchmarks against the peer; BENCH=--dkim measures signing
	$(BIN)/python -m benchmarks $(BENCH)

test-compose: $(STAMP) ## Run the tests that need a compose runner
	$(BIN)/pytest -m compose

docs: $(STAMP) ## Generate docs/configuration.md and the rights of Redis's user from the code
	$(BIN)/python deploy/make_configuration.py
	$(BIN)/python deploy/make_redis_rights.py

lock: ## Pin all dependencies with hashes, without an index address
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH" >&2; exit 2; }
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra embedded pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra embedded --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--group build -c requirements-dev.lock -o deploy/build.lock

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/hatchling build -t wheel

clean: ## Delete build products and caches, but not .venv or data
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/.cache
	find services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
