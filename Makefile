# Needs python3 >= 3.11 (with venv) and a package index; everything else is installed into .venv.

# the demo counts from here until the console answers, so its time includes the installation
BEGAN  := $(shell date +%s)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check install --no-compile
# the wheel of pip that every Python with ensurepip has: in its own folder, or where its distribution put it
PIP_WHEEL := 'import ensurepip, glob, sysconfig; \
	folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or ensurepip.__path__[0] + "/_bundled"; \
	print(glob.glob(folder + "/pip-*.whl")[0])'
# what Kurir runs with is installed first, and is enough for the demo; the tools of developers come on top
LEAN   := $(VENV)/.runs
STAMP  := $(VENV)/.installed
# A process that may not write what it compiled compiles every module again: a service then starts in three seconds, not one.
unexport PYTHONDONTWRITEBYTECODE
SERVICES := $(subst /,.,$(basename $(wildcard services/*/main.py)))
# Most tests wait for something, so run more processes than cores; tests with time bounds run alone. Files run in
# the order of their paths: the longest tests come first, and the short ones of tests/unit fill the end.
TEST_PROCESSES ?= 4
# the first interpreter on PATH that is new enough and can create an environment
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-fast check check-rules check-types format soak bench test-compose pictures docs lock wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv from the lock files, with all tools

# The newer pip reads the index three times as fast as the one that comes with Python 3.11. That one only fetches it,
# from within its wheel: unpacking and compiling it first would take longer than all of this. Pip would also compile every
# module of every package; importing the services compiles the tenth that they use.
$(LEAN): requirements.lock deploy/build.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Kurir needs python3 >= 3.11 with venv on PATH (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "Installing what Kurir runs with into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@awk '/^[^ ]/ { wanted = /^pip==/ } wanted' requirements.lock >$(VENV)/pip.lock
	@PYTHONPATH="$$($(PYTHON) -c $(PIP_WHEEL))" $(PIP) --require-hashes -r $(VENV)/pip.lock
	@$(PIP) --require-hashes --no-deps -r requirements.lock -r deploy/build.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]' $(SERVICES)
	@touch $@

$(STAMP): $(LEAN) requirements-dev.lock
	@echo "Installing the developers' tools …"
	@$(PIP) --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

demo: $(LEAN) ## Send 1,000 recipients through both channels of a sandboxed system
	@$(BIN)/kurir demo --began $(BEGAN)

up: $(LEAN) ## Run the whole system in the foreground
	@$(BIN)/kurir up

test: $(STAMP) ## Run every test except soak and compose
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -p no:rerunfailures \
		-m "not soak and not compose and not timing"
	$(BIN)/pytest -m "timing and not soak" $$(grep -rlE --include='*.py' 'mark\.(timing|cost)' tests)

test-fast: $(STAMP) ## Run only the unit tests
	$(BIN)/pytest tests/unit

check: check-rules check-types ## Check lint, types, import rules, prose and the compose file

check-rules: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_prose.py
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.cluster.yml

check-types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP) ## Format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(STAMP) ## Run the fault suite at full time constants
	$(BIN)/pytest -m soak

bench: $(STAMP) ## Run the benchmarks against the peer; BENCH=--dkim measures signing
	$(BIN)/python -m benchmarks $(BENCH)

test-compose: $(STAMP) ## Run the tests that need a compose runner
	$(BIN)/pytest -m compose

pictures: $(STAMP) ## Take the console's pictures for the documents, with Chromium
	PICTURES=docs/pictures $(BIN)/pytest -q tests/e2e/console/test_pictures.py

docs: $(STAMP) ## Generate docs/configuration.md and the rights of Redis's user from the code
	$(BIN)/python deploy/make_configuration.py
	$(BIN)/python deploy/make_redis_rights.py

lock: ## Pin all dependencies with hashes, without an index address
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH" >&2; exit 2; }
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra embedded --extra postgres pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra embedded --extra postgres --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--group build -c requirements-dev.lock -o deploy/build.lock

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/hatchling build -t wheel

clean: ## Delete build products and caches, but not .venv or data
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/.cache
	find services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
