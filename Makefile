# Everything a checkout needs: `make demo`, `make test`, `make lint`, `make fix`, `make serve`.
# Each target sets .venv up first, and again only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.attune-installed
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu test-nightly fuzz drill lint fix serve wheel clean

help:
	@echo "make demo       train, evaluate and query a small CLIP on handwritten digits (five minutes)"
	@echo "make test       the fast tests"
	@echo "make test-slow  the tests that launch DeepSpeed"
	@echo "make test-gpu   the tests that need an NVIDIA GPU"
	@echo "make test-nightly  the slow tests that a night is long enough for, among them those of Ray and Slurm"
	@echo "make fuzz       Schemathesis against the service's OpenAPI document"
	@echo "make drill      200 jobs while services, workers and Ray nodes are killed (10 and 20 minutes)"
	@echo "make lint       ruff, mypy and codespell"
	@echo "make fix        let ruff correct and format"
	@echo "make serve      the service on http://127.0.0.1:8321"
	@echo "make wheel      build dist/*.whl"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Attune needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (about 6 GB, one to several minutes) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/attune demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu" --numprocesses logical --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu and not nightly" --numprocesses logical --dist loadfile $(PYTEST_ARGS)

test-nightly: $(STAMP)
	$(BIN)/python -m pytest -m "nightly and not gpu" $(PYTEST_ARGS)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

fuzz: $(STAMP)
	ATTUNE_FUZZ_EXAMPLES=25 $(BIN)/python -m pytest tests/service/test_fuzz.py -s --timeout 3600 $(PYTEST_ARGS)

drill: $(STAMP)
	$(BIN)/python -m benchmarks.drill $(DRILL_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(STAMP)
	@$(BIN)/attune serve

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache
