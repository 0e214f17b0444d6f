# `make` alone prints this help. Everything is installed into .venv, pinned by constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
DEMO := .venv/.demo
ALL := .venv/.all

.PHONY: help setup demo test check clean

help: ## print this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(ALL) ## make .venv and install the package and its test tools with pinned versions

demo: $(DEMO) ## the whole way on a synthetic corpus: search, leaderboard, export, a denoised file
	$(BIN)/quell demo

# As `quell` has it: without, two processes of two threads on two cores spend their time spinning.
test: export GOMP_SPINCOUNT ?= 1000
test: $(ALL) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(ALL) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## remove .venv; runs/ stays
	rm -rf .venv

# What the demo needs; the rest, 2 GB of extras and test tools, for all else. Two recipes of pip must not meet.
.NOTPARALLEL:
$(DEMO): EXTRAS := demo
$(ALL): EXTRAS := demo,test
$(DEMO) $(ALL): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "quell: Python %d.%d, expected 3.11 to 3.13; make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$(EXTRAS)]'
	touch $@ $(if $(filter $@,$(ALL)),$(DEMO))
