# Virtual environments are created on first use: .venv, and .venv-oldest for test-oldest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
OLDEST := .venv-oldest
OLDEST_INSTALLED := $(OLDEST)/.installed
OLDEST_VERSIONS := tests/oldest.txt
WHEEL_LIMIT := 15000000
PYTEST ?=  # extra pytest arguments

.PHONY: demo test test-slow test-research test-oldest lint docs release clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not research and not integration" $(PYTEST)

test-research: $(INSTALLED)
	$(BIN)/python -m pytest -m research $(PYTEST)

# Tests that depend on the versions of other packages.
test-oldest: $(OLDEST_INSTALLED)
	$(OLDEST)/bin/python -m pytest $(addprefix tests/,layers losses objectives models hub data metrics examples)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_INSTALLED)
	$(BIN)/python -m mkdocs build --strict

release: $(INSTALLED)
	rm -rf dist build/empty
	$(BIN)/python -m pip install --disable-pip-version-check --upgrade build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	test $$(cat dist/*.whl | wc -c) -lt $(WHEEL_LIMIT)
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --disable-pip-version-check dist/*.whl
	cd build/empty && HF_HUB_OFFLINE=1 bin/python -c "import causalcxr; \
		causalcxr.create_model('causal_efficientnet_lite0', pretrained=True)"

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV), once: several gigabytes (mostly PyTorch) and a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $@

$(OLDEST_INSTALLED): pyproject.toml $(OLDEST_VERSIONS)
	@echo "Installing the oldest supported versions into $(OLDEST), once: several gigabytes and a few minutes."
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check --constraint $(OLDEST_VERSIONS) --editable ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build demo_output dist site .pytest_cache .ruff_cache .mypy_cache
