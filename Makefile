# Everything a newcomer needs. Each target makes its own .venv, so nothing else has to be installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 2

.PHONY: help install test lint bench demo clean

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
	$(BIN)/python benchmarks/corpus.py --short --json
	$(BIN)/python benchmarks/tokenizers.py --short --json

demo:            ## from pictures and questions to a trained any-to-any model
	@echo "make demo is not built yet: see the changelog for what is."
	@exit 1

clean:           ## the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
