# Everything a person does with this repository. Needs make and Python 3.11 or newer, nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run nats-context test check fix bench bench-full bench-report generate requirements speech-data clean

BIN := .venv/bin
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SPEECH := usr/share/pocketsphinx/test/data/librivox
LOCK := uv pip compile --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --quiet
COMPILE := $(LOCK) pyproject.toml
EXTRAS := --extra embedded --extra speech
# Three for two processors: the tests of whole instances wait half of their time. The longest files come first.
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.run-stamp ## run everything on this machine; ARGS= go to `taskfold up`
	@exec $(BIN)/taskfold up $(ARGS)

nats-context: ## let the nats command know the server: `nats --context taskfold …`
	@command -v nats >/dev/null || { echo "the nats command is not on PATH. With Go:" \
	  "go install github.com/nats-io/natscli/nats@v0.5.0, which puts it into \"\$$(go env GOPATH)/bin\"" >&2; exit 1; }
	@nats context add taskfold --description "the events of Taskfold" \
	  --server "$${TASKFOLD_NATS_URL:-nats://127.0.0.1:$${TASKFOLD_NATS_PORT:-4222}}"

test: .venv/.dev-stamp speech-data ## run the tests; ARGS= go to pytest
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

check: .venv/.dev-stamp ## check format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.generate --check
	$(BIN)/python -m services.cli.settings_page --check

fix: .venv/.dev-stamp ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev-stamp ## measure speed, in a few minutes; ARGS= go to the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

bench-full: .venv/.dev-stamp ## measure everything at full size, which takes hours; ARGS= as above
	@$(BIN)/python -m benchmarks --full $(ARGS)

bench-report: .venv/.dev-stamp ## write docs/performance from the results that were saved last
	@$(BIN)/python -m benchmarks.report $(ARGS)

generate: .venv/.dev-stamp ## write the schemas, diagrams and tables that are derived from code
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m services.cli.settings_page

requirements: ## lock the requirements anew (needs uv)
	$(COMPILE) $(EXTRAS) --group dev -o requirements/dev.txt
	$(COMPILE) $(EXTRAS) --group build --constraint requirements/dev.txt -o requirements/run.txt
	$(COMPILE) --group build --constraint requirements/dev.txt -o requirements/image.txt
	$(LOCK) requirements/peers.in --constraint requirements/dev.txt -o requirements/peers.txt

clean: ## remove what was made here, except ./data
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment. A stamp is newer than the requirements that are installed.

.venv/.run-stamp: requirements/run.txt
	$(call install,run)

.venv/.dev-stamp: requirements/dev.txt
	$(call install,dev)
	@touch .venv/.run-stamp

define install
@$(call make-venv)
@echo "installing requirements/$(1).txt into .venv; the first time takes about a minute"
@$(PIP) install --require-hashes -r requirements/$(1).txt
@$(PIP) install --no-build-isolation --no-deps --editable .
@touch .venv/.$(1)-stamp
endef

# PYTHON=… chooses the interpreter; else the first of these that is new enough.
PYTHON ?=
define make-venv
if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
  for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
    python=; \
  done; \
  if [ -z "$$python" ]; then \
    echo "taskfold needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." \
      "Name one with PYTHON=…" >&2; exit 1; \
  fi; \
  echo "making .venv with $$python, $$("$$python" --version)"; \
  "$$python" -m venv .venv || { \
    echo "this Python has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
    rm -rf .venv; exit 1; }; \
fi
endef

# Read speech for the tests, with its text: installed, or unpacked here from the Debian package.
speech-data:
	@if [ -d /$(SPEECH) ] || [ -d .cache/speech/$(SPEECH) ]; then exit 0; fi; \
	mkdir -p .cache/speech && cd .cache/speech; \
	if command -v apt-get >/dev/null && apt-get -qq download pocketsphinx-testdata 2>apt.log \
	  && dpkg-deb -x pocketsphinx-testdata_*.deb .; then \
	  echo "recorded speech for the tests is in .cache/speech"; \
	else \
	  echo "no recorded speech (Debian package pocketsphinx-testdata): its tests will be skipped"; \
	fi
