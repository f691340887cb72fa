# `make repro`: everything, from nothing to results.    `make test`: the fast tests.
# `make docs`: the pages of docs/ and the API reference as a site that needs no network.
# `make results`: the published tables, many hours on 2 cores; interrupted, it goes on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro results bench test test-all test-cluster check docs env clean

repro: env
	@dvc repro
	@ie results

results: env
	@python docs/tables.py --all

# How fast, beside what else there is; an hour on 2 cores that have nothing else to do. SMALL=--small: minutes, no file.
bench: env
	@for name in sharding reading step training evaluating scale sweep changes; do python benchmarks/$$name.py $(SMALL) || exit 1; done
	@test ! -e results/evaluate/gallery.safetensors || python benchmarks/page.py $(SMALL)

test: env
	@pytest

test-all: env
	@pytest -m 'not cluster'

# A cluster of hosts in namespaces on this machine, and everything that can happen to it. Needs root; half an hour.
test-cluster: env
	@IE_FAULTS=benchmarks/faults.json pytest -m cluster tests/cluster/test_run.py tests/cluster/test_faults.py tests/cluster/test_security.py

check: env
	@ruff check .
	@ruff format --check .
	@mypy

# The theme's notice on what may replace MkDocs one day is no concern of a build.
docs: env
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "docs: build/site/index.html; with search: python -m http.server --bind 127.0.0.1 --directory build/site"

env: $(VENV)/.installed

# The stamp is written last: an interrupted installation starts again.
$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned requirements into $(VENV) (minutes, the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) .runs .cache build
