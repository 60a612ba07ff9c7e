# `make quickstart` and `make test` work on a fresh machine: Python >= 3.10, gcc, git, make and
# the package index. Everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUT ?= runs/quickstart
IMAGES ?=
SCENES ?= runs/scenes
WORKERS ?= 2
EXTRAS := labels,train,demo,ray,slurm,dev,docs

.PHONY: help setup quickstart scenes test faults lint docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## install everything into .venv, nothing else

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/u2seg doctor --install-detectron2
	touch $(STAMP)

quickstart: $(STAMP)  ## label, train, evaluate, predict, report on a dozen photographs (IMAGES=, OUTPUT=)
ifeq ($(IMAGES),)
	$(BIN)/python datasets/make_photos.py --output '$(OUTPUT)/photos'
	$(BIN)/u2seg run --config-file configs/quickstart/quickstart.yaml \
		--images '$(OUTPUT)/photos' --output-dir '$(OUTPUT)'
else
	$(BIN)/u2seg run --config-file configs/quickstart/quickstart.yaml \
		--images '$(IMAGES)' --output-dir '$(OUTPUT)'
endif

scenes: $(STAMP)  ## prove that the chain learns: 200 unlabelled scenes, 50 unseen ones with truth
	$(BIN)/python datasets/make_scenes.py --output '$(SCENES)/data'
	$(BIN)/u2seg run --config-file configs/quickstart/scenes.yaml \
		--images '$(SCENES)/data/images/train' --output-dir '$(SCENES)' \
		--truth '$(SCENES)/data' --baseline

# The tests of a file stay together and share its fixtures. A thread for each process: two
# processes of two threads each would fight over two cores. `pytest` alone runs in one process.
test: $(STAMP)  ## run all tests, in two processes of one thread (WORKERS=)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

faults: $(STAMP)  ## break things on purpose, the long tests too (see benchmarks/results/faults.md)
	$(BIN)/python -m pytest -m faults

lint: $(STAMP)  ## formatting, rules, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove the environment, caches and built documentation (results in runs/ stay)
	rm -rf $(VENV) site build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
