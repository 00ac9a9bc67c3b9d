# `make demo` and `make test` do all of their own set-up: tests/setup.sh says what is installed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Programs are started hundreds of times: let Python keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit bench setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml tests/setup.sh
	tests/setup.sh $(VENV)
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m tests.demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Most tests wait more than they work; those that measure time want the machine for themselves.
unit: $(STAMP)
	$(BIN)/pytest -n 4 --dist worksteal -m 'not alone'
	$(BIN)/pytest -m alone

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
