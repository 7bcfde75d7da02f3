# Everything a newcomer needs. Each target makes its own .venv, so nothing else has to be installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
BENCHMARKS := corpus tokenizers pipeline scale sdvi train_step audit sampler

.PHONY: help install test lint bench fuzz demo clean

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(VENV)/.installed  ## a virtual environment with everything that the tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

test: install    ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

lint: install    ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install   ## a short pass of every benchmark (litdata without its own wish for torchvision)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps litdata
	for name in $(BENCHMARKS); do \
	  echo "-- $$name"; $(BIN)/python benchmarks/$$name.py --short --json || exit 1; \
	done
	$(BIN)/python benchmarks/gpu.py --tiny --json

demo:            ## from pictures and questions to a trained any-to-any model, in demo/
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once)"; $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	$(BIN)/omni-diffusion demo --out demo

fuzz: install    ## ten thousand damaged inputs for each reader
	$(BIN)/python tests/fuzz/fuzzing.py --runs 10000

clean:           ## the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
