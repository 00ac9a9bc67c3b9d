# `make demo` and `make test` do all of their own set-up: tests/setup.sh says what is installed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Programs are started hundreds of times: let Python keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit zfs test-zfs bench bench-zfs manual setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml tests/setup.sh
	tests/setup.sh $(VENV)
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m tests.demo

test: lint types unit zfs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Most tests wait more than they work; those that measure time want the machine for themselves.
unit: $(STAMP)
	$(BIN)/pytest -n 4 --dist worksteal -m 'not alone'
	$(BIN)/pytest -m alone

# Real ZFS, in a guest with Debian's kernel: some minutes more the first time, when its module is built.
test-zfs: $(STAMP)
	tests/guest/run.sh $(VENV)

# The same as a part of `make test`, which may run where there can be no guest; CI sets IMGSTORE_ZFS=required.
zfs: $(STAMP)
	IMGSTORE_ZFS=$${IMGSTORE_ZFS:-optional} tests/guest/run.sh $(VENV)

bench: $(STAMP)
	$(BIN)/python -m bench

bench-zfs: $(STAMP)
	bench/guest.sh $(VENV)

# The manual pages, of the tables of commands and the configuration.
manual: $(STAMP)
	$(BIN)/python -m docs.man

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
