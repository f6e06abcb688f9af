# Two commands: `make demo` trains the quickstart, `make test` checks everything.
# To get torch without CUDA, TORCH_INDEX names the index of CPU builds; see the README.

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

.PHONY: demo test reference clean

# A finished run is trained anew, a stopped one goes on. It ends by naming its files.
demo: $(INSTALLED)
	@if [ -e runs/quickstart/results.json ]; then rm -rf runs/quickstart; fi
	@if [ -e runs/quickstart/recipe.yaml ]; then \
		$(BIN)/budgie train --resume runs/quickstart; \
	else $(BIN)/budgie train quickstart; fi

test: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile

# What torch itself needs comes from the ordinary index: that of CPU builds has not all of it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) -e '.[demo]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) -e '.[demo,dev]'
	@touch $@

# Writes docs/cli.md and docs/recipe-schema.json anew; the tests compare them.
reference: $(INSTALLED_DEV)
	$(BIN)/python docs/make_reference.py

clean:
	rm -rf .venv dist build
