# `make repro`: everything, from nothing to results.    `make test`: the fast tests.
# `make docs`: the pages of docs/ and the API reference as a site that needs no network.
# `make results`: the published tables, many hours on 2 cores; it resumes when interrupted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro results bench test test-all test-cluster check docs env env-dev clean

repro: env
	@dvc repro
	@ie results

results: env
	@python docs/tables.py --all

# How fast, beside what else there is; an hour on 2 cores that have nothing else to do. SMALL=--small: minutes, no file.
bench: env-dev
	@for name in sharding reading step training evaluating scale sweep changes estimator; do python benchmarks/$$name.py $(SMALL) || exit 1; done
	@test ! -e results/evaluate/gallery.safetensors || python benchmarks/page.py $(SMALL)

# Two processes, each with one thread; the tests of a file share one, for what they build together.
test: env-dev
	@pytest -n 2 --dist loadfile

test-all: env-dev
	@pytest -m 'not cluster'

# A cluster of hosts in namespaces on this machine, and everything that can happen to it. Needs root; half an hour.
test-cluster: env-dev
	@IE_FAULTS=1 pytest -m cluster tests/cluster/test_run.py tests/cluster/test_faults.py \
		tests/cluster/test_stage_faults.py tests/cluster/test_security.py tests/cluster/test_slurm.py

check: env-dev
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-cache

# The theme's notice on what may replace MkDocs one day is no concern of a build.
docs: env-dev
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "docs: build/site/index.html; with search: python -m http.server --bind 127.0.0.1 --directory build/site"

# What a run needs; what tests, lint, types and docs need beside it.
env: $(VENV)/.installed
env-dev: $(VENV)/.installed-dev

# Each stamp is written last: an interrupted installation starts again. Bash, for a failure of pip to be one of the pipe.
$(VENV)/.installed $(VENV)/.installed-dev: SHELL := bash
$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,requirements.txt)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(call install,requirements-dev.txt)
	@touch $@

define install
@echo "installing the packages of $(1) into $(VENV) (minutes, the first time)"
@set -o pipefail; $(BIN)/python -m pip install --no-color --progress-bar off --disable-pip-version-check -r $(1) -c requirements.txt | \
  while read -r word _; do case $$word in Installing) echo "  unpacking all of them";; \
  Collecting|Processing) n=$$((n + 1)); if ((n % 20 == 0)); then echo "  $$n packages found"; fi;; esac; done
endef

clean:
	rm -rf $(VENV) .runs .cache build
