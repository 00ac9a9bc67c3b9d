# Each target does all of its own set-up: tests/setup.sh says what is installed. `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Programs are started hundreds of times: let Python keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

POLL_TESTS = $(addprefix tests/,eventloop rpc http imports events catalog sources queries maintenance view metrics \
	e2e/test_main_job.py e2e/test_restart.py e2e/test_descriptors.py)

USER_TESTS = $(addprefix tests/,rpc state imports catalog queries sources library serve httpd ctl view \
	e2e/test_main_job.py e2e/test_restart.py e2e/test_serve.py)

UV_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) \
	--custom-compile-command 'make lock'

# Runs a program of the tests in a guest with real ZFS.
in_guest = results=$$(mktemp -d) && IMGSTORE_GUEST_SECONDS=86400 tests/guest/boot.sh $(VENV) $$results \
	env IMGSTORE_GUEST=1 $(abspath $(BIN))/python -m $(1) $(if $(SEED),--seed $(SEED)); \
	status=$$?; rm -r $$results; exit $$status

.PHONY: help setup demo demo-server test check lint types unit unit-poll unit-user coverage zfs test-zfs kills zfs-kills cuts disk-cuts power-cuts schedules faults memory fuzz load bench bench-zfs manual docs lock dist deb hooks clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## what all others need: Debian packages, and Python packages in .venv

$(STAMP): pyproject.toml tests/setup.sh tests/requirements.lock tests/tools.lock
	tests/setup.sh $(VENV)
	@touch $@

demo: $(STAMP) ## the main job with real parts, each command and what it says
	$(BIN)/python -m tests.demo

demo-server: $(STAMP) ## an image server with three images at 127.0.0.1:8480, for docs/first-session.md, until Ctrl-C
	$(BIN)/python -m tests.demo --serve

test: lint types unit unit-poll unit-user zfs ## all that must hold: lint, types, all tests, and real ZFS in a guest if there can be one

check: lint types ## the quick part of it, for between two edits
	$(BIN)/pytest -n 4 --dist worksteal -m 'not slow and not alone'

lint: $(STAMP) ## ruff, its format, too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

# Most tests wait more than they work. Those that measure time run alone, and fail if they fail three times in a row:
# another guest of this machine may take the processor at any moment.
unit: $(STAMP) ## all tests but those in the guest
	tests/run.sh $(VENV) -n 4 --dist worksteal -m 'not alone'
	$(BIN)/pytest -m alone -p pytest_rerunfailures --reruns 2

# What waits, once more: without epoll, and on a platform that trio does not know, child processes included.
unit-poll: $(STAMP) ## what waits, with the stand-in for kqueue that illumos needs, in place of epoll
	IMGSTORE_TESTS_WAIT_BY=poll PYTHONPATH=$(CURDIR)/tests/support/illumos tests/run.sh $(VENV) -n 4 --dist worksteal \
		-m 'not alone' -- $(POLL_TESTS)

# Once more as a user who is not root, who may not do all that tests do, such as mounting: those are skipped there.
unit-user: $(STAMP) ## what a daemon of an ordinary user does, as one
	tests/as_user.sh tests/run.sh $(VENV) -q -n 4 --dist worksteal -m 'not alone' -- $(USER_TESTS)

# Without those that measure time, which coverage would make wrong.
coverage: $(STAMP) ## which lines the tests reach, room by room; fails below the floor in pyproject.toml
	$(BIN)/pytest -n 4 --dist worksteal -m 'not alone' --timeout 300 --cov --cov-report json:build/coverage.json \
		--cov-report html:build/coverage
	$(BIN)/python -m tests.rooms build/coverage.json

# Real ZFS, in a guest with Debian's kernel: some minutes more the first time, when its module is built.
test-zfs: $(STAMP) ## the tests on real ZFS alone
	tests/guest/run.sh $(VENV)

# The same as a part of `make test`, which may run where there can be no guest; CI sets IMGSTORE_ZFS=required.
zfs: $(STAMP)
	IMGSTORE_ZFS=$${IMGSTORE_ZFS:-optional} tests/guest/run.sh $(VENV)

# In a folder in memory. docs/reliability.md has what was reached.
kills: $(STAMP) ## kill -9 at named points and random moments, N times (10000)
	$(BIN)/python -m tests.proofs.kills $(or $(N),10000)

zfs-kills: $(STAMP) ## the same in a guest with real ZFS, N times (300)
	$(call in_guest,tests.guest.kills $(or $(N),300))

cuts: $(STAMP) ## power cuts on a file system that forgets what was not synced, N of them (10000)
	$(BIN)/python -m tests.proofs.cuts $(or $(N),10000)

disk-cuts: $(STAMP) ## power cuts of an ext4, N of them (10000), from the log of all writes of its disk; needs root
	$(BIN)/python -m tests.proofs.disk_cuts $(or $(N),10000) $(if $(SEED),--seed $(SEED))

power-cuts: $(STAMP) ## power cuts of a guest with real ZFS, N of them (300), from the log of all writes of its disk
	$(call in_guest,tests.guest.power_cuts $(or $(N),300))

schedules: $(STAMP) ## imports, deletions, faults and restarts in any order of their steps, N orders (100000) by seed
	$(BIN)/python -m tests.proofs.schedules $(or $(N),100000) --seed $(or $(SEED),0)

faults: $(STAMP) ## fail each call of the disk, of each operation, once
	$(BIN)/python -m tests.proofs.faults

memory: $(STAMP) ## fail allocations of memory, N times (1000), by SEED; needs a C compiler
	$(BIN)/python -m tests.proofs.memory $(or $(N),1000) $(if $(SEED),--seed $(SEED))

# By coverage, with what tests/fuzz.lock has; the inputs at which something fails are in build/fuzz.
fuzz: $(STAMP) ## fuzz all that takes bytes from outside, SECONDS (60) each
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r tests/fuzz.lock
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

load: $(STAMP) ## thousands of connections, images, and installations that leave nothing behind
	$(BIN)/python -m tests.proofs.load

bench: $(STAMP) ## figures: our speed, and that of others
	$(BIN)/python -m bench

bench-zfs: $(STAMP) ## figures on real ZFS
	bench/guest.sh $(VENV)

manual: $(STAMP) ## the manual pages, of the tables of commands and the configuration
	$(BIN)/python -m docs.man

docs: $(STAMP) ## the pages in docs/ as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/mkdocs.yml

# With UPGRADE=--upgrade, also what is newer by now; without it, only what pyproject.toml asks for and is not there.
lock: $(STAMP) ## the versions that everything is tested with, into tests/requirements.lock and tests/tools.lock
	$(UV_LOCK) --all-extras --group dev --output-file tests/requirements.lock pyproject.toml
	$(UV_LOCK) --constraint tests/requirements.lock --group tools --output-file tests/tools.lock
	$(UV_LOCK) --constraint tests/requirements.lock --group fuzz --output-file tests/fuzz.lock

dist: $(STAMP) ## sdist and wheel, into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

deb: dist ## a Debian package for this release of Debian, into dist/
	smf/debian/build.sh $(VENV) dist

hooks: $(STAMP) ## have git run the checks of .pre-commit-config.yaml before each commit
	$(BIN)/pre-commit install

clean: ## forget what was installed and built here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
