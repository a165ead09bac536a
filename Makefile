# make demo: install into .venv and run the main job. make test: the same with the tools of development, then the tests of the first group.
# make test-slow: the tests that are real and slow. make processors: the tests as other processors would run them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow processors lint docs clean

demo: .venv/installed
	$(BIN)/assay demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

processors: .venv/installed-dev
	PYTHON=$(BIN)/python tests/processors.sh

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python docs/generate.py

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e . -c constraints.txt
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	touch $@ .venv/installed

clean:
	rm -rf .venv demo processors
