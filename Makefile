# Everything sets itself up: `make demo` and `make test` work on a bare clone with Python 3.11+, pip, git and make.

SHELL := /bin/bash
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt scripts/setup scripts/install_torch.py

# Two cores are enough for the tests; each of the two processes gets one thread and no network.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 NO_COLOR=1
# Some tests take more threads than one; threads that spin while they wait slowed a test sixfold.
TESTING := $(OFFLINE) GOMP_SPINCOUNT=0

.PHONY: help setup demo test check unit recipe claims bench compared docs lock
.DEFAULT_GOAL := help

help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# A stamp per set of extras: a second run is instant, a changed pin installs again.
.venv/.ready-core: $(INPUTS)
	@scripts/setup
	@touch $@

.venv/.ready-dev: $(INPUTS)
	@scripts/setup dev docs peft track bench
	@touch $@ .venv/.ready-core

setup: .venv/.ready-dev  ## Make .venv with torch, the package and the tools to work on it.

demo: .venv/.ready-core  ## Four experts on real text, composed, measured and reported (ten minutes).
	@env -u OMP_NUM_THREADS $(BIN)/collegium demo $(ARGS)

test: .venv/.ready-dev  ## Style, types, floors, documentation, then all tests; what .ci/run calls.
	@$(OFFLINE) scripts/check
	@$(OFFLINE) scripts/docs
	@$(TESTING) scripts/test

check: .venv/.ready-dev  ## Style, types and the import contract alone (seconds).
	@$(OFFLINE) scripts/check

unit: .venv/.ready-dev  ## The quick tests alone (under a minute).
	@$(TESTING) $(BIN)/pytest -n 2 $(ARGS)

recipe: .venv/.ready-dev  ## The tests of whole recipes on pico models alone.
	@$(TESTING) $(BIN)/pytest -n 2 -m recipe $(ARGS)

docs: .venv/.ready-dev  ## Write the generated pages anew and build the site into site/.
	@$(OFFLINE) scripts/docs --write

claims: .venv/.ready-core  ## Run the ledger of claims (about two hours, resumable).
	@env -u OMP_NUM_THREADS $(BIN)/collegium claims run $(ARGS)

bench: .venv/.ready-dev  ## Measure side by side with the peers.
	@env -u OMP_NUM_THREADS $(BIN)/collegium bench run $(ARGS)

compared: .venv/.ready-dev  ## Measure beside PEFT, a router and a loop of one's own (twelve minutes).
	@env -u OMP_NUM_THREADS $(OFFLINE) $(BIN)/python bench/compared/compare.py $(ARGS)

lock: .venv/.ready-dev  ## Write the installed versions into constraints.txt.
	@scripts/lock
