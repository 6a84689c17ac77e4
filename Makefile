PYTHON ?= python3
JOBS ?= 2
ARGS ?=
NOT_SHORT := measuring.py peers.py sequence_models.py recall.py standing_comparison.py selective_copying.py language.py memory.py ladder.py rungs.py model_size.py processes.py recording.py
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train test test-slow check bench docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: .venv/.ready ## train an agent: make train ARGS="task=hopper_demo backbone=min_lstm"
	$(BIN)/python train_offline.py $(ARGS)

test: .venv/.ready ## the tests that run on every change
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-slow: .venv/.slow ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGS)

check: .venv/.ready ## formatting, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)

bench: .venv/.ready ## every benchmark with its short defaults
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@set -e; for benchmark in $(filter-out $(addprefix benchmarks/,$(NOT_SHORT)),$(wildcard benchmarks/*.py)); do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

docs: .venv/.ready ## the site, in docs/_build
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

clean: ## remove what make and the tests made, the environment included; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Two stamps, so that a change in a kernel compiles it again but installs nothing.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What the slow tests run beside the fast ones' needs. The Ray plugin's own dependencies are AWS's, which no test needs.
.venv/.slow: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[collect,minigrid,robotics,video]' ray
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps hydra-ray-launcher
	@touch $@

.venv/.ready: .venv/.installed $(wildcard minrnn/kernels/*.py)
	$(BIN)/python -m minrnn.kernels.warm_up
	@touch $@
