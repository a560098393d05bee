# Thalamus. `make help` names every way in; `make PYTHON=python3.12 …` takes another Python (3.11 or later).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS   ?=
# How many tests run at once. Most of them wait; files stay together, since their tests share what they started.
TESTS_AT_ONCE ?= auto
# Tests of single services, in which the branches of their domains are measured. Random schedules (tests/properties) and
# slow tests are left out: measured, some take longer than a test may, and their branches differ from run to run.
UNIT := -m "not slow" $(addprefix tests/,auth contract edge persistence presence shared)
THALAMUS_IMAGE ?= thalamus:dev

.DEFAULT_GOAL := help
.PHONY: help setup run test test-full coverage verify-faults bench bench-full bench-smoke bench-soak bench-curves images secrets up down test-swarm vendor check lint fmt fmt-check types imports proto proto-check dashboards lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## make .venv with everything that running, testing and checking needs

run: $(VENV)/.runtime ## install what running needs, then start the whole platform (EDGES=2 for two edges)
	@exec $(BIN)/thalamus dev $(ARGS)

test: $(VENV)/.dev ## run every test (ARGS="-k presence" for some); without node or Chromium theirs are skipped
	$(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile --durations=20 $(ARGS)

test-full: $(VENV)/.dev ## run every test, with more missed messages, more random commands, and all of the Autobahn suite
	MISSED=50000 FUZZED=20000 AUTOBAHN=all $(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile --timeout 1800 $(ARGS)

coverage: $(VENV)/.dev ## run the tests of single services, and fail where they reach under 90 % of a domain's branches
	$(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile --cov --cov-report=json --cov-report=html $(UNIT) --durations=20 $(ARGS)
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

test-swarm: $(VENV)/.dev ## deploy the stack and test it through the balancer; needs a Docker engine (minutes)
	SWARM=1 TESTCONTAINERS_RYUK_DISABLED=true $(BIN)/pytest tests/swarm tests/contract -k "swarm or Local" $(ARGS)

check: lint fmt-check types imports proto-check ## everything a reviewer's machine can say

lint: $(VENV)/.dev ## look for mistakes (ruff)
	$(BIN)/ruff check

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
		--extra build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate $(ARGS) \
		--extra build --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

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
