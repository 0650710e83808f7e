# Every target makes what it needs: a machine needs Python >= 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# No byte-compiling: half of the files that pip installs are never imported.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile \
  --disable-pip-version-check --constraint constraints.txt --editable
# A worker a core; a file stays on one, so that what it prepares is made once.
PARALLEL := --numprocesses auto --dist loadfile
# The libraries that benchmarks compare with have an environment of their own.
PEERS := .venv-peers
PEER_PINS := experiments/bench/peer/requirements.txt
PEER_INSTALL := $(PEERS)/bin/python -m pip install --quiet --no-compile \
  --disable-pip-version-check
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-all test-slurm lint figures bench bench-peers

help: ## What can be made (the default)
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

venv: $(VENV)/installed-dev ## .venv with fmjax and all its tools

quickstart: $(VENV)/installed ## Train a ladder on MovieTweetings, draw it
	$(BIN)/fmjax sweep experiments/quickstart.py
	$(BIN)/fmjax report runs/quickstart --out runs/quickstart \
	  --figure analysis/figures/quickstart.png

test: $(VENV)/installed-dev ## The tests that fit in ten minutes
	$(BIN)/python -m pytest -q -m "not slow and not slurm" $(PARALLEL)

test-all: $(VENV)/installed-dev ## Every test
	$(BIN)/python -m pytest -q -m "not slurm" $(PARALLEL)

test-slurm: $(VENV)/installed-dev ## Sweeps on Slurm, one node started here (root)
	tests/slurm/cluster.sh $(BIN)/python -m pytest -q -m slurm tests/slurm

lint: $(VENV)/installed-dev ## Format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

figures: $(VENV)/installed-dev ## Draw figures and README tables from the committed results
	$(BIN)/python -m analysis.plots
	$(BIN)/python -m analysis.baselines
	$(BIN)/python -m analysis.ablations
	$(BIN)/python -m analysis.published
	$(BIN)/python -m analysis.scaling_curves
	$(BIN)/python -m analysis.compute_optimal
	$(BIN)/python -m analysis.context_and_data
	$(BIN)/python -m analysis.execute
	$(BIN)/python -m analysis.readme

bench: $(VENV)/installed ## Every benchmark; hours, if the peer is installed
	$(BIN)/python -m experiments.bench

bench-peers: $(PEERS)/installed ## .venv-peers with RecTools, to compare with

# The stamps: an edit of pyproject.toml or constraints.txt installs again.
$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fmjax needs Python >= 3.11, but $(PYTHON) is" \
	  "'$$($(PYTHON) --version 2>&1)'; name a newer one:" \
	  "make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make an environment; install its venv module" \
	  "(on Debian the package python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/created
	$(INSTALL) '.[analysis]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/created
	$(INSTALL) '.[analysis,dev]'
	@touch $@ $(VENV)/installed

# torch alone first: what it brings along is seen before the rest is fetched.
$(PEERS)/installed: $(PEER_PINS)
	$(PYTHON) -m venv $(PEERS)
	$(PEER_INSTALL) $$(grep ^torch== $(PEER_PINS))
	$(PEER_INSTALL) --requirement $(PEER_PINS)
	@touch $@
