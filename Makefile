# Every target works as the first command after a clone; after the install none needs the network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# faiss-gpu where the machine has an NVIDIA driver, faiss-cpu elsewhere; FLAVOUR=cpu or gpu overrides.
FLAVOUR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STORE ?= gap-data/demo

.PHONY: install demo test lint ui bench gapbench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(FLAVOUR),dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/domain-gap demo --store $(STORE)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(STAMP)
	$(BIN)/domain-gap ui

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

# Planted gaps with known truth; resumable. HALF=report is run once per result.
HALF ?= tune
WORLD ?= camvid
gapbench: $(STAMP)
	PYTHONPATH=tests/gapbench $(BIN)/python -m gapbench --half $(HALF) --world $(WORLD) $(if $(TABLE),--table)

clean:
	rm -rf $(VENV) build *.egg-info
