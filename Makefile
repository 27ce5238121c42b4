# Two environments in one .venv: what the service needs, and what its developers need besides.
# Everything comes from the hash-pinned locks; `make lock` compiles them anew.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CHROMIUM := /usr/bin/chromium

.DEFAULT_GOAL := help
.PHONY: help demo run test check bench skill lock clean

help: ## Shows this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: .venv/service ## Replays real history through a running service; ONCE=1 ends after it
	@exec $(BIN)/forewarn demo $(if $(ONCE),--once)

run: .venv/service ## Runs the service on your own data folder, .forewarn; PORT=8001 on another port
	@FOREWARN_LOG_FORMAT=$${FOREWARN_LOG_FORMAT:-console} exec $(BIN)/forewarn serve $(if $(PORT),--port $(PORT))

test: .venv/developer ## Runs the tests
	@test -x $(CHROMIUM) || { echo "The browser test needs $(CHROMIUM): apt-get install chromium"; exit 1; }
	@for tool in node openssl curl jq; do command -v $$tool >/dev/null || { \
		echo "The tests run docs/receivers, which needs $$tool: apt-get install nodejs openssl curl jq"; exit 1; }; done
	@$(compiled)
	@$(BIN)/python -m pytest -q -n 2 $(TESTS)

check: .venv/developer ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv/service ## Measures the product beside its bare limits; writes docs/benchmarks.md
	@$(compiled)
	@exec $(BIN)/forewarn bench all --json --write docs/benchmarks.md

skill: .venv/service ## Scores the shipped rules on history; writes docs/skill.md
	@exec $(BIN)/forewarn skill --write docs/skill.md

lock: .venv/developer ## Compiles the locks from pyproject.toml
	@$(call compile,--extra build,requirements.lock)
	@$(call compile,--extra build --extra dev,requirements-dev.lock)

clean: ## Removes .venv; your data stay
	@rm -rf .venv

compile = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(1) pyproject.toml --output-file $(2)

.venv/service: requirements.lock pyproject.toml
	@$(call install,requirements.lock)

.venv/developer: requirements-dev.lock pyproject.toml
	@$(call install,requirements-dev.lock)
	@touch .venv/service

# Where Python keeps nothing that it compiled (PYTHONDONTWRITEBYTECODE), each process would compile all of it anew,
# in a fifth of its start. pip compiles what it copies; here it only points at the sources.
compiled = $(BIN)/python -m compileall -q alerts app migrations

define install
command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: install Python 3.11 to 3.14."; exit 1; }; \
$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 15) or \
sys.exit("Forewarn needs Python 3.11 to 3.14, and $(PYTHON) is %d.%d: name another, make PYTHON=python3.11 ..." % v)' || exit 1; \
test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	|| { echo "$(PYTHON) cannot make .venv: install its venv module (Debian: apt-get install python3-venv)."; exit 1; }; \
echo "Installing from $(1); this takes a minute, once." >&2; \
$(PIP) install --require-hashes --requirement $(1) && \
$(PIP) install --no-deps --no-build-isolation --editable . && \
$(compiled) && \
touch $@
endef
