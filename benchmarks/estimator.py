"""`EquiVAEClassifier` on scikit-learn's digits: `python benchmarks/estimator.py [--small]`.

Defaults, 10 labels a class of 1,437 images, 360 to test, over three label subsets and splits: error beside 1-NN and
logistic regression on the same labels, and the seconds of `fit`. And how many MB `pip install .` and the extra
`estimator` put into an empty environment. Writes benchmarks/results/estimator.json, unless it is `--small`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402
from ie_model.estimator import EquiVAEClassifier  # noqa: E402

_TRAIN, _LABELS = 1437, 10


def errors(seed: int, steps: int) -> dict[str, float]:
    """Of one subset: test errors in %, seconds of `fit`."""
    digits = load_digits()
    x, y = digits.images / 16, digits.target
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:_TRAIN], order[_TRAIN:]
    labels = np.full(_TRAIN, -1)
    for c in range(10):
        labels[np.flatnonzero(y[train] == c)[:_LABELS]] = c
    started = time.perf_counter()
    ours = EquiVAEClassifier(min_steps=steps).fit(x[train], labels)
    seconds = time.perf_counter() - started
    known, flat = labels >= 0, x.reshape(len(x), -1)
    peers: dict[str, Any] = {
        "1-NN": KNeighborsClassifier(1),
        "logistic regression": LogisticRegression(max_iter=1000),
    }
    found = {"error": 100 * (1 - ours.score(x[test], y[test])), "fit": seconds}
    for name, peer in peers.items():
        peer.fit(flat[train][known], labels[known])
        found[name] = 100 * (1 - peer.score(flat[test], y[test]))
    return found


def installed_mb(extra: str) -> float:
    """MB of site-packages after `pip install .` with an extra in an empty environment, in the project's versions."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        source = f"{folder}/source"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), source], check=True)
        pip = [f"{folder}/venv/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", f"{source}/requirements.txt", f"{source}{extra}"], check=True)
        return sum(path.stat().st_size for path in Path(folder, "venv", "lib").rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="one subset, few steps, no installation, no file")
    small = parser.parse_args().small
    found = [errors(seed, 100 if small else 2000) for seed in range(1 if small else 3)]
    means = {name: statistics.mean(run[name] for run in found) for name in found[0]}
    spread: dict[str, Any] = {} if small else {"sd": round(statistics.stdev(run["error"] for run in found), 2)}
    n, ours = len(found), round(means["error"], 2)
    rows: list[Row] = []
    for name in ("1-NN", "logistic regression"):
        ratio = round(means[name] / means["error"], 2)
        rows.append(row("error at 100 labels", ours, "%", n, against=name, ratio=ratio, **spread))
        rows.append(row(name, round(means[name], 2), "%", n))
    rows.append(row("error at 100 labels, mean", ours, "%", n, target="at most 2", **spread))
    rows.append(row("seconds of fit", round(means["fit"], 1), "s", n, target="at most 60"))
    if not small:
        rows.append(row("installed by pip install .", round(installed_mb("")), "MB"))
        rows.append(row("installed with the extra estimator", round(installed_mb("[estimator]")), "MB"))
    keep("estimator", rows, small)


if __name__ == "__main__":
    main()
