# make demo    install into .venv and merge the bundled demo
# make test    install into .venv and run all tests
# make lint    ruff

PYTHON ?= python3

.PHONY: demo test lint

demo: .venv/installed
	.venv/bin/python main.py

test: .venv/installed
	.venv/bin/python -m pytest

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
