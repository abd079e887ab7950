# Thin: each target is a few lines. `make demo` first, then `make test`.
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/pip-compile --quiet --no-header --annotation-style=line --strip-extras --allow-unsafe \
	--no-emit-find-links --no-emit-index-url --no-emit-options

.PHONY: help venv demo test coverage mutants e2e bench docs audit lint format lock

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

venv: .venv/installed ## Make .venv and install everything, editable

.venv/installed: pyproject.toml requirements-dev.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv-moto: ## A local S3 server for the tests of s3:// (its dependencies contradict the trainer's)
	$(PYTHON) -m venv .venv-moto
	.venv-moto/bin/python -m pip install --quiet "moto[s3,server]==5.2.5"

demo: venv ## Dataset by URL -> adapter image, proven, on this machine (a minute)
	$(BIN)/python -m demo

test: venv ## Unit, contract and integration tests
	$(BIN)/python -m pytest --ignore=tests/e2e --numprocesses=2 --dist=loadfile --cov --cov-report=

coverage: ## What the last `make test` covered; an error below 95 % of the lines of a room
	for room in tuning kaito_tuning data_downloader pusher; do \
		$(BIN)/coverage report --include="*/$$room/*" --fail-under=95 --skip-covered || exit 1; done

.venv-mutants:
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet "cosmic-ray==8.7.0"

mutants: venv .venv-mutants ## Does a test fail for each small change of the outcome protocol and the exit codes?
	tests/mutants shared/tuning/outcome.py shared/tuning/lease.py shared/tuning/errors.py

e2e: venv ## The images baked for real, and a Workspace run in them (Debian, root; about five minutes)
	tests/e2e/run

bench: venv ## Every benchmark beside its peers; writes benchmarks/results (Debian, root; half an hour)
	benchmarks/run

docs: venv ## Draw the pictures and write the reference anew
	$(BIN)/python docs/pictures/draw.py
	$(BIN)/python docs/write_reference.py

audit: venv ## Known vulnerabilities of what the locks name
	$(BIN)/python -m pip install --quiet pip-audit
	for lock in images/*/requirements.lock; do $(BIN)/pip-audit --requirement $$lock --no-deps --disable-pip || exit 1; done

lint: venv ## Style, types, import rules, dead code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture

format: venv ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Compile the locks anew (and images/trainer/generate_accepted_keys.py after an upgrade of a library)
	$(COMPILE) --generate-hashes --extra=data-downloader --output-file=images/data-downloader/requirements.lock pyproject.toml
	$(COMPILE) --generate-hashes --extra=pusher --output-file=images/pusher/requirements.lock pyproject.toml
	$(COMPILE) --generate-hashes --extra=workspace --extra=controller --output-file=images/controller/requirements.lock pyproject.toml
	$(COMPILE) --extra=trainer --output-file=images/trainer/requirements-cpu.lock pyproject.toml
	$(COMPILE) --all-extras --output-file=requirements-dev.lock pyproject.toml
	# A local build such as +cpu is this machine's choice of the same version.
	sed -i 's/^\(torch==[0-9.]*\)+[a-z0-9]*\( *\)/\1    \2/' images/trainer/requirements-cpu.lock requirements-dev.lock
	$(BIN)/python images/trainer/lock_cuda.py
