# All but clean create .venv on the first call and use it from then on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
WHEEL_LIMIT := 15000000

.PHONY: demo test lint docs release clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest

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
	@echo "Installing into $(VENV): with PyTorch some gigabytes and some minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) build demo_output dist site .pytest_cache .ruff_cache .mypy_cache
