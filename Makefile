# Each target is one or two plain commands; README.md lists them for those without make.
PYTHON ?= python3
PORT ?= 8000
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help run test check prove lint format install install-dev lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/.installed ## Make the site ready and serve it on http://127.0.0.1:8000 (PORT= changes it)
	@$(PY) manage.py run_local --settings=config.settings.local --port $(PORT)

test: $(VENV)/.installed-dev ## Run the tests on SQLite and memory: no service, no network (ARGS= adds options)
	$(PY) -m pytest -n 2 -m "not postgres and not redis and not browser" $(ARGS)

check: ## Run what CI runs: every check, and the tests on PostgreSQL, Redis and in a browser as well
	bash .ci/run

prove: ## Repeat the books' proof at length: more rounds, kills, restarts and examples (ARGS= adds options)
	bash .ci/run prove $(ARGS)

lint: $(VENV)/.installed-dev ## Check style and types
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.installed-dev ## Put the code into the house's format
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

install: $(VENV)/.installed ## Make .venv with what the site needs

install-dev: $(VENV)/.installed-dev ## The same, with what tests and checks need

lock: $(VENV)/.installed-dev ## Write the lock files again, from requirements.txt and requirements-dev.txt
	CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --upgrade -o requirements.lock requirements.txt
	CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --upgrade -o requirements-dev.lock requirements-dev.txt

clean: ## Remove .venv and caches; what `make run` keeps in .local stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.lock requirements-local.txt | $(PY)
	@echo "Installing packages into $(VENV) (a minute or two) ..."
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps -r requirements-local.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing packages for tests and checks ..."
	@$(PIP) install -r requirements-dev.lock
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not. Name another one: make run PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
