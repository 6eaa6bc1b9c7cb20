# Two commands do all the set-up: `make demo` and `make test`. They need Python 3.11 or 3.12 and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JIELONG = $(BIN)/jielong
PLACE = import site; print(site.getsitepackages()[0])

.PHONY: help demo test lint types unit quant slow clean

help:
	@echo "make demo    set up, train the tiny model, continue the prompts (about 5 minutes on two cores)"
	@echo "make test    set up, then lint, types and the whole test suite"
	@echo "make slow    the tests that take minutes"
	@echo "make clean   remove the environment (run folders stay)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "make: jielong needs Python 3.11 or 3.12, but $(PYTHON) is `$(PYTHON) --version 2>&1`; try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# one stamp a set of extras, so that a second call installs nothing; pyproject.toml newer than the stamp: again
$(VENV)/.installed-demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-demo pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	@touch $@

# gptqmodel asks for an older numpy and a newer protobuf than the rest: it gets an environment on top of the other one, which holds no
# more than what differs
$(VENV)/.installed-quant: $(VENV)/.installed-test pyproject.toml
	$(BIN)/python -m venv $(VENV)/quant
	$(BIN)/python -c "$(PLACE)" > "`$(VENV)/quant/bin/python -c '$(PLACE)'`/below.pth"
	$(VENV)/quant/bin/python -m pip install --quiet --editable '.[quant]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(JIELONG) run tiny

test: $(VENV)/.installed-test lint types unit quant

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest

quant: $(VENV)/.installed-quant
	$(VENV)/quant/bin/python -m pytest tests/quantize/test_libraries.py

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV)
