# make demo: install into .venv and run the main job. make test: the same with the tools of development, then the tests of the first group.
# make test-slow: the second group, real and slow, and the tests of formulas with shapes checked. make test-older: the tests of trainers and tables with older versions of these. make processors: the tests as other processors would run them.
PYTHON ?= python3
BIN := .venv/bin
# Shapes and types of tensors, checked at run time: it doubles what the tests take, so it is done where formulas are.
SHAPES := --jaxtyping-packages=assay.core,assay.maths,assay.methods,assay.policies,assay.training,beartype.beartype
FORMULAS := $(addprefix tests/,core maths methods policies training replay/test_replay.py)
# The laws also on every set of options, which the first group does not go through.
LAWS := $(addprefix tests/,test_every_method.py test_every_attributor.py test_every_policy.py)

# Those behind the table of docs/integrations.md.
TRAINERS := $(patsubst %,tests/integrations/test_%.py,huggingface lightning lightning_together skorch accelerate processes trainers_together trainer_tasks parts_in_trainers pushed)
# Those behind docs/integrations-sklearn.md.
TABLES := tests/integrations/test_sklearn.py tests/cli/test_estimators.py tests/examples/test_boosting.py
OLDER := PYTHONPATH="$(CURDIR)/.venv/older" $(BIN)/python

.PHONY: demo test test-slow test-older processors lint docs clean

demo: .venv/installed
	$(BIN)/assay demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-slow: .venv/installed-frameworks
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest $(SHAPES) $(FORMULAS)
	$(BIN)/python -m pytest -m "" $(SHAPES) $(LAWS)

test-older: .venv/installed-older
	# That the older ones are the ones that are found.
	$(OLDER) -c "import transformers, lightning, skorch, accelerate, sklearn, lightgbm; print(found := [one.__version__ for one in (transformers, lightning, skorch, accelerate, sklearn, lightgbm)]); assert found == ['4.57.6', '2.5.6', '1.3.1', '1.10.1', '1.5.2', '4.6.0']"
	$(OLDER) -m pytest -m "" $(TRAINERS) $(TABLES)

processors: .venv/installed-dev
	$(BIN)/python tests/processors.py

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
	$(BIN)/python -m pip install -q -e '.[dev,oracles]' -c constraints.txt
	touch $@ .venv/installed

.venv/installed-frameworks: pyproject.toml constraints.txt .venv/installed-dev
	$(BIN)/python -m pip install -q -e '.[dev,oracles,frameworks]' -c constraints.txt
	# An oracle asks for torchvision and never imports it; beside torch for CPUs alone its import fails, and with it that of the trainers.
	$(BIN)/python -m pip uninstall -q -y torchvision
	touch $@

# Before the newer ones on the path, in the place of a second environment.
.venv/installed-older: constraints-older.txt .venv/installed-frameworks
	rm -rf .venv/older
	$(BIN)/python -m pip install -q --no-deps --target .venv/older -r constraints-older.txt
	touch $@

clean:
	rm -rf .venv demo processors
