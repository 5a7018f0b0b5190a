PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help try repro test test-all check gpu-check venv lock

help:
	@echo "make try       install, then the first pictures of the small model that ships"
	@echo "make repro     install, then run the pipeline on the embedded dataset"
	@echo "make test      install, then the checks and tests that a person waits for"
	@echo "make test-all  the same, and the tests that take long"
	@echo "make gpu-check what a GPU makes of it, in ten minutes"
	@echo "make venv      only install, into .venv"
	@echo "make lock      take in new versions of dependencies (needs uv)"

try: venv
	@$(BIN)/prologue try small

repro: venv
	@echo "Running the pipeline: dvc repro (stages that did not change are skipped)"
	$(BIN)/dvc repro
	@$(BIN)/prologue summary

test: check
	$(BIN)/pytest -n auto -m "not slow"

test-all: check
	$(BIN)/pytest -n auto

gpu-check: venv
	$(BIN)/python benchmarks/gpu.py

check: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

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
