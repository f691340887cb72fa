#!/usr/bin/env bash
# Installs the package without extras into an environment of its own, shows what is not there, and tests ie_model.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
# The source is copied: a build leaves files beside it. Versions are those of the project.
git archive --prefix=source/ HEAD | tar -x -C "$work"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check -c requirements.txt -c requirements-dev.txt \
  "$work/source" hypothesis pytest pytest-timeout

# Beside tests alone: what is imported is the installed package.
mkdir "$work/run"
mv "$work/source/tests" "$work/source/pyproject.toml" "$work/run/"
cd "$work/run"
"$work/venv/bin/python" -I - <<'PYTHON'
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import ie_model

there = [name for name in ("boto3", "dvc", "pandas", "ray", "scipy", "sklearn", "webdataset") if find_spec(name)]
assert not there, f"installed with the core: {there}"
assert Path(ie_model.__file__).with_name("py.typed").is_file(), "no py.typed"
assert all(hasattr(ie_model, name) for name in ie_model.__all__)
try:
    import ie_model.metrics
except ModuleNotFoundError as error:
    print(error)
else:
    raise AssertionError("ie_model.metrics imports without scikit-learn")
print(len(list(distributions())), "packages; no Ray, DVC or scikit-learn")
PYTHON
if "$work/venv/bin/ie" --help 2>"$work/message"; then exit 1; fi
grep -x "error: .* is not installed: pip install 'ie-pipeline\[pipeline\]'" "$work/message"

# The test files that name no package of the extra `metrics`.
mapfile -t tests < <(grep -LE '(import|from) (scipy|sklearn|threadpoolctl|ie_model\.metrics)' tests/ie_model/test_*.py)
"$work/venv/bin/python" -m pytest --noconftest -p no:cacheprovider "${tests[@]}"
