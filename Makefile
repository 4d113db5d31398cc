# make demo    install into .venv and merge the bundled demo
# make test    install into .venv, what tests need too, and run all tests
# make lint    ruff

PYTHON ?= python3
PIP = .venv/bin/python -m pip install --disable-pip-version-check

.PHONY: demo test lint
.DELETE_ON_ERROR: # half a .venv is none

demo: .venv/installed
	.venv/bin/python main.py

test: .venv/installed-dev
	.venv/bin/python -m pytest

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one with make PYTHON=..."; exit 1; }
	@echo "making .venv"
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@echo "installing what requirements.txt lists into .venv: torch and its libraries are about 5 GB, and take some minutes"
	$(PIP) -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements.txt | .venv/bin/python
	@echo "installing what requirements-dev.txt lists into .venv: torch and its libraries are about 5 GB, and take some minutes"
	$(PIP) -r requirements-dev.txt
	@touch .venv/installed $@
