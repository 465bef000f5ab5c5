# Linux x86-64 with Python 3.11 or 3.12. Every target makes the environment first if need be.
.DEFAULT_GOAL := help
.PHONY: help env run bench test test-browser test-slow lint lock lab notebooks-check clean reference

BIN := .venv/bin
# Notebooks run in this environment's kernel, even where another user owns the folder.
export JUPYTER_PREFER_ENV_PATH := 1

# It has to run: a pyenv shim may not, and Debian's Python may come without ensurepip.
PYTHON = $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	2>/dev/null && echo $$p && break; done)

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

env: .venv/.ready  ## make the environment .venv from requirements.lock

run: .venv/.ready  ## run notebooks 01 to 07 on the mini profile, results in outputs/mini
	@$(BIN)/python -m anymal_lib.chain

bench: .venv/.ready  ## measure the training step beside other recipes (notebook 11)
	@$(BIN)/python -m anymal_lib.chain --only 11

test: .venv/.ready  ## run the tests, two files at a time
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-browser: .venv/.ready  ## run the tests in a headless browser, where one is installed
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m browser -rs tests/browser

test-slow: .venv/.ready  ## run the tests that take minutes, and compare outputs/mini with the stored run
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: notebooks-check  ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

notebooks-check: .venv/.ready  ## check that notebooks carry no outputs
	@$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

lab: .venv/.ready  ## open JupyterLab on notebooks/00_start_here.ipynb
	@$(BIN)/python -m anymal_lib.lab notebooks/00_start_here.ipynb

reference: .venv/.ready  ## run afresh and store the result in outputs/reference/mini
	@$(BIN)/python -m anymal_lib.chain --reference

# Only the index's own files are pinned: pip's configuration here may offer other builds.
lock: .venv/.ready  ## pin every package anew in requirements.lock (Python 3.11)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "The lock needs Python 3.11: make clean, then make lock PYTHON=python3.11"; exit 1; }
	@echo "Resolving; this takes some minutes ..."
	@PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= $(BIN)/pip-compile --quiet \
		--upgrade --extra dev --generate-hashes --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file .venv/requirements.lock pyproject.toml
	@{ echo "# Linux x86-64, Python 3.11 (3.12 works too): everything, tests and notebooks included."; \
		echo "# Written by pip-compile from pyproject.toml; refresh it with: make lock"; \
		echo "# The environment: pip install -r requirements.lock && pip install --no-deps -e ."; \
		cat .venv/requirements.lock; } > requirements.lock

clean:  ## remove the environment and the tools' caches; outputs/ stays
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find anymal_lib tests -name __pycache__ -prune -exec rm -rf {} +

# The stamp comes last, so whatever was interrupted runs again. pip writes RECORD last: a package
# without it is half installed, and would pass for whole.
.venv/.ready: requirements.lock pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		python="$(PYTHON)"; \
		if [ -z "$$python" ]; then \
			echo "No Python 3.11 or 3.12 with venv and pip found. Install one (Debian, Ubuntu:"; \
			echo "apt install python3.11-venv) or name one: make env PYTHON=/path/to/python3.11"; \
			exit 1; \
		fi >&2; \
		"$$python" -m venv --clear .venv; }
	@for info in .venv/lib/python3*/site-packages/*.dist-info; do \
		[ -f "$$info/RECORD" ] || rm -rf "$$info"; done
	@echo "Installing into .venv; the first time this takes a few minutes and about 6.6 GB ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps \
		--no-build-isolation -e .
	@touch $@
