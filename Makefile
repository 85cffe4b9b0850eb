# Each target makes the virtual environment and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(shell cksum < pyproject.toml | cut -d' ' -f1)

.PHONY: demo test test-fast lint bench bench-parts clean

demo: $(INSTALLED)  ## score a small lake of sample photos
	$(BIN)/grepr demo demo

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

test-fast: $(INSTALLED)  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## style, format, types, and what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## grepr score beside other ways: one table of ratios, each measured side by side in one run
	$(BIN)/python -m benchmarks.compare

bench-parts: $(INSTALLED)  ## likewise of its parts: encoders, the machine's limits, memory, FSIMc of all pairs of versions
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.floor
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.similarity

clean:
	rm -rf $(VENV) demo

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
