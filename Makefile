PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off

# A file's tests stay together, since they share what is slow to make.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help search demo race pipeline test test-full check bench soak docs clean

help:
	@echo "make search      a detector for 3 ms on a T4"
	@echo "make demo        search a small detector, train it on generated shapes, evaluate it (CPU, minutes)"
	@echo "make race        three detectors of one latency race on generated shapes (CPU, minutes): docs/race.md"
	@echo "make pipeline    from this CPU to a detector on it, every step: docs/tutorial.md (20 minutes)"
	@echo "make test        the tests (installs torch)"
	@echo "make test-full   also those that take minutes"
	@echo "make check       ruff and pyright"
	@echo "make bench       the benchmarks that need no GPU; DATA=... adds that of the data pipeline"
	@echo "make soak        random commands, killed at random, for an hour; SECONDS=60 for a minute; log in soak.jsonl"
	@echo "make docs        the documentation as a site in site/; warnings are errors"
	@echo "make clean       remove the virtual environment, caches and builds"

search: $(VENV)/.runtime
	$(BIN)/maenas search --budget 3ms --device t4

demo: $(VENV)/.detector
	$(BIN)/maenas demo

race: $(VENV)/.detector
	@test -d runs/shapes96 || $(BIN)/maenas data shapes runs/shapes96 --images 400 --size 96
	$(BIN)/maenas search --space demo --budget 0.5ms --input 96 --classes 4 --shortlist 4 --name race --out runs/shortlist
	$(BIN)/maenas race runs/shortlist/race-1.json runs/shortlist/race-2.json runs/shortlist/race-3.json \
	  --data runs/shapes96 --input 96 --recipe demo --epochs 18 --rungs 2 --out runs/race --resume
	$(BIN)/maenas report runs/race --out runs/race/report.html

pipeline: $(VENV)/.detector
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/pipeline.sh

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PARALLEL)

test-full: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PARALLEL) -m "slow or not slow"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.dev
	@set -e; for name in assign inference kernel_prediction profile_networks search; do \
	  echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; done
	@test -z "$(DATA)" || $(BIN)/python benchmarks/data.py --data "$(DATA)"

soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py --seconds $(or $(SECONDS),3600) --log soak.jsonl

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going --quiet --builder html --doctree-dir build/doctrees docs site

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "maenas needs Python 3.11 or newer, but $(PYTHON) is '$$($(PYTHON) --version 2>&1)'." >&2; \
	  echo "Name another interpreter: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Each stamp is older than pyproject.toml exactly when its packages may have changed.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.detector $(VENV)/.docs $(VENV)/.runtime

$(VENV)/.detector: pyproject.toml | $(BIN)/python
	@$(PIP) --editable '.[detector,export,report]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@$(PIP) --editable '.[docs]'
	@touch $@ $(VENV)/.runtime
