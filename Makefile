# Thalamus. `make help` names every way in; `make PYTHON=python3.12 …` takes another Python (3.11 or later).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS   ?=
# How many files of tests run at once: three for two cores, since most tests wait more than they compute. Those of one file
# share what they started. Which files are first says tests/support/order.py.
TESTS_AT_ONCE ?= $(shell echo $$(((3 * $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1) / 2)))
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder --durations=20
# Tests of single services, in which the branches of their domains are measured. Random schedules (tests/properties) and
# slow tests are left out: measured, some take longer than a test may, and their branches differ from run to run.
UNIT := -m "not slow" $(addprefix tests/,auth chat contract edge persistence presence shared)
THALAMUS_IMAGE ?= thalamus:dev

.DEFAULT_GOAL := help
.PHONY: help setup run test test-again test-full coverage verify-faults bench bench-full bench-smoke bench-soak bench-curves images secrets up down test-swarm test-dynamodb-local vendor check lint docstrings fmt fmt-check types imports proto proto-check dashboards lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## make .venv with everything that running, testing and checking needs

run: $(VENV)/.runtime ## install what running needs, then start the whole platform (EDGES=2 for two edges)
	@exec $(BIN)/thalamus dev $(ARGS)

test: $(VENV)/.dev ## run every test (ARGS="-k presence" for some); without node or Chromium theirs are skipped
	$(PYTEST) -n $(TESTS_AT_ONCE) $(ARGS)

test-again: $(VENV)/.dev ## run the tests that failed last once more, one by one; never random schedules, whose next seed is another
	! grep --quiet '"tests/properties/' .pytest_cache/v/cache/lastfailed
	$(PYTEST) -n 0 --last-failed --last-failed-no-failures none

test-full: $(VENV)/.dev ## run every test in its long version (FULL=1): more messages, more seeds, all of the Autobahn suite
	FULL=1 $(PYTEST) -n $(TESTS_AT_ONCE) --timeout 1800 $(ARGS)

coverage: $(VENV)/.dev ## run the tests of single services, and fail where they reach under 90 % of a domain's branches
	$(PYTEST) -n auto --cov --cov-report=json --cov-report=html $(UNIT) $(ARGS)
	$(BIN)/python -m tests.support.branches build/coverage/coverage.json

verify-faults: $(VENV)/.dev ## break a stack in every way and write docs/reliability-results.md (minutes; ARGS="--only F04 --seed 1")
	$(BIN)/python -m tests.faults --out docs/reliability-results.md $(ARGS)

bench: $(VENV)/.bench ## measure beside Socket.IO, small sizes (minutes; ARGS="--only chat --peer thalamus"); the table: build/bench/RESULTS.md
	$(BIN)/python -m bench $(ARGS)

bench-full: $(VENV)/.bench ## measure beside every peer, five rounds, full sizes (hours), and write bench/RESULTS.md
	$(BIN)/python -m bench --full --out bench/RESULTS.md $(ARGS)

bench-smoke: $(VENV)/.dev ## tell whether a delivery or a publish costs over 30 % more CPU than bench/baseline.json says (a minute)
	$(BIN)/python -m bench.smoke $(ARGS)

bench-soak: $(VENV)/.bench ## tell whether anything grows in ten minutes of traffic and churn, and write bench/soak.md (ARGS="--minutes 2")
	$(BIN)/python -m bench.soak --out bench/soak.md $(ARGS)

bench-curves: $(VENV)/.bench ## measure how cost grows, and write the tables and plots of docs/performance.md (six minutes; ARGS="--rounds 3")
	$(BIN)/python -m bench.curves --out docs/performance.md $(ARGS)

images: ## build the image of all services (THALAMUS_IMAGE=thalamus:dev)
	docker build --network host --file deploy/images/Dockerfile --tag $(THALAMUS_IMAGE) .

secrets: $(VENV)/.runtime ## make development secrets in ./secrets; what is there stays
	@$(BIN)/thalamus secrets init

up: ## deploy or update the stack on this Swarm (STACK=thalamus, STACK_FILES="dev-stack.yml dev-ports.yml")
	@deploy/up.sh

down: ## stop the stack in order and remove it; its volumes stay (STACK=thalamus)
	@deploy/down.sh

test-dynamodb-local: $(VENV)/.dev ## test the stores against DynamoDB Local; needs a Docker engine
	DYNAMODB_LOCAL=1 $(PYTEST) -n auto tests/contract -k Local $(ARGS)

test-swarm: $(VENV)/.dev ## deploy the stack and test it through the balancer; needs a Docker engine (minutes)
	SWARM=1 $(BIN)/pytest --durations=20 tests/swarm $(ARGS)

check: lint docstrings fmt-check types imports proto-check ## everything a reviewer's machine can say

lint: $(VENV)/.dev ## look for mistakes (ruff)
	$(BIN)/ruff check

docstrings: $(VENV)/.dev ## look for first lines of docstrings over 80 characters
	$(BIN)/pytest -q -p no:cacheprovider tests/docs/test_docstrings.py

fmt: $(VENV)/.dev ## format the code and sort imports
	$(BIN)/ruff check --quiet --select I --fix
	$(BIN)/ruff format

fmt-check: $(VENV)/.dev ## tell whether `make fmt` would change anything
	$(BIN)/ruff format --check

types: $(VENV)/.dev ## check types (mypy --strict)
	$(BIN)/mypy

imports: $(VENV)/.dev ## check who imports whom (import-linter; the contracts stand in pyproject.toml)
	$(BIN)/lint-imports

proto: $(VENV)/.dev ## write the Python stubs of proto/ to proto/gen
	BIN=$(BIN) proto/generate.sh proto/gen

proto-check: $(VENV)/.dev ## tell whether `make proto` would change anything
	@rm -rf build/proto && BIN=$(BIN) proto/generate.sh build/proto
	@diff -r -x __pycache__ build/proto proto/gen || { echo 'proto/gen is out of date: run `make proto`'; exit 1; }

vendor: ## fetch the SDK of the console page from npm, in the version that web/vendor.sh names
	web/vendor.sh

dashboards: $(VENV)/.dev ## write the JSON of the Grafana dashboards from deploy/grafana/*.py
	$(BIN)/python -m deploy.grafana.build

lock: ## pin all dependencies with hashes; needs uv (`pipx install uv`), ARGS=--upgrade for the newest
	@command -v uv >/dev/null || { echo 'make lock needs uv: pipx install uv'; exit 1; }
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate $(ARGS) \
		--extra build --extra push pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate $(ARGS) \
		--extra build --extra push --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## remove .venv and everything made by tools; ./data stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Stamps: a second run costs nothing. The development lock holds everything of the other one.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Thalamus needs Python 3.11 or later; $(PYTHON) is `$(PYTHON) --version 2>&1 | tail -1`." \
			"Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) -m venv failed; on Debian and Ubuntu it is a package: apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (once)" >&2
	@$(PIP) --require-hashes --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what development needs (once)" >&2
	@$(PIP) --require-hashes --requirement requirements-dev.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.runtime $@

$(VENV)/.bench: bench/requirements.txt $(VENV)/.dev
	@echo "installing what the plots of \`make bench\` need (once)" >&2
	@$(PIP) --requirement bench/requirements.txt
	@touch $@
