# make repro: the whole pipeline on the embedded dataset.  make test: the tests.  Both share make venv.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test venv lock

repro: venv
	@echo "Running the pipeline: dvc repro (stages that did not change are skipped)"
	dvc repro
	@prologue summary

test: venv
	ruff check
	ruff format --check
	mypy
	pytest

venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@echo "Creating .venv and installing the locked dependencies (once, a few minutes)"
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Prologue needs Python 3.11 or newer; set PYTHON=..."'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock:  # after a change of dependencies in pyproject.toml; needs uv
	uv lock --upgrade
	uv export --quiet --format requirements-txt --no-hashes --no-emit-project --no-annotate --all-groups -o requirements.lock
