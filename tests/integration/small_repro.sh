#!/usr/bin/env bash
# `make repro` on scikit-learn's digits in the current clone, twice: the second time nothing must run.
set -euo pipefail
python - <<'PYTHON'
import yaml

from tests.helpers.project import small_params

params = small_params()
with open("params.yaml", "w") as file:
    yaml.safe_dump(params, file, sort_keys=False)
PYTHON
make repro
start=$SECONDS
make repro | tee second.log
grep -q "Data and pipelines are up to date" second.log
test $((SECONDS - start)) -lt 30
test -s results/evaluate/latents/test-000000.parquet
test -s results/evaluate/figures/swap.png
grep -q "Content-Security-Policy" results/report/index.html
grep -q "^# Model card" results/report/model_card.md
# Everything but params, lock file and small results is ignored by git.
! git status --porcelain --untracked-files=all | grep -E '\.(tar|parquet|safetensors|npz|npy)$'
echo "small repro: passed"
