"""The published tables: each a sweep with its own budget, kept under docs/results with its command and commit.

`python docs/tables.py NAME...` makes some of them, `--all` all of them, `--list` names them. Trials that are finished
are not run again; an interrupted table goes on where it was. The raw files and shards of a table's data are made first
where they are not there.
"""

from __future__ import annotations

import copy
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from pipeline.fetch import fetch  # noqa: E402
from pipeline.files import write_json  # noqa: E402
from pipeline.jobs import shards_folder  # noqa: E402
from pipeline.overlay import merged  # noqa: E402
from pipeline.params import parse_params  # noqa: E402
from pipeline.provenance import commit, hardware  # noqa: E402
from pipeline.shard import shard  # noqa: E402
from pipeline.sweep import sweep  # noqa: E402

SEEDS = [0, 1, 2]
ABLATIONS = ["plain", "self_included", "stochastic_r", "v_from_x", "fixed_m", "network_classifier", "exact_sum"]
OPTIONS = ["kl_warmup", "free_bits"]
COMPARED = ["supervised", "m2", "plain", "extended"]


# Smaller batches at a longer run: the consistency term gains from steps more than from their size.
EXTENDED = {"batch_size": 128, "learning_rate": 0.0015}


def _table(epochs: int, counts: list[Any], methods: list[str], **more: Any) -> dict[str, Any]:
    """Three label subsets of each cell, every measure of each trial; one probe seed, as there are three runs."""
    grid = {"label_counts": counts, "methods": methods, "seeds": SEEDS, "epochs": epochs, "measures": "all"}
    measured = {"probe_seeds": [0], "probe_points": 10000, "style_points": 5000}
    return {"sweep": grid, "evaluate": measured, **more}


def _errors(epochs: int, counts: list[Any], supervised_steps: int, **more: Any) -> dict[str, Any]:
    """Test errors alone, of the methods that a table of label counts compares; all have the same number of steps."""
    grid = {"label_counts": counts, "methods": COMPARED, "seeds": SEEDS, "epochs": epochs, "measures": "errors"}
    return {"sweep": grid | {"baseline": "m2", "supervised_steps": supervised_steps}, **more}


TABLES: dict[str, dict[str, Any]] = {
    "mnist-plain": _table(20, [100], ["supervised", "plain"]),
    "mnist-baselines": _table(20, [100], ["m2", "vae"]),
    "mnist-kl-warmup": _table(20, [100], ["supervised", "plain", "m2", "vae"], objective={"kl_warmup": 0.2}),
    "mnist-extended": _table(30, [100], ["supervised_augmented", "extended"], train=EXTENDED),
    "mnist-extended-more-labels": _table(15, [1000, "all"], ["supervised_augmented", "extended"], train=EXTENDED),
    # The budget of mnist-plain.
    "mnist-plain-more-labels": {
        "sweep": {
            "label_counts": [1000, 3000],
            "methods": ["plain"],
            "seeds": SEEDS,
            "epochs": 20,
            "measures": "errors",
        }
    },
    "mnist-ablations": _table(8, [100], ABLATIONS + OPTIONS),
    "fashion-mnist": _table(
        8, [100], ["supervised", "plain", "extended", "m2", "vae"], data={"source": "fashion-mnist"}
    ),
    # Budget of every trial: 8 epochs of 214 steps of 256 points; the supervised net the same 1712. Shares trials of 100
    # labels with the table above.
    "fashion-mnist-labels": _errors(8, [100, 1000], 1712, data={"source": "fashion-mnist"}),
    # Budget of every trial: 12 epochs of 214 steps of 256 points; the supervised net the same 2568 steps.
    "mnist-labels": _errors(12, [100, 600, 1000, 3000, "all"], 2568),
    # Budget of every trial: 20 epochs of 39 steps of 128 points.
    # At most 97 documents of the smallest class are left for train.
    "reuters": _errors(20, [80, 400], 780, data={"source": "reuters"}, train={"batch_size": 128}),
    # Budget of every trial: 150 epochs of 7 steps of 32 points.
    "japanese-vowels": _errors(
        150, [45, 90], 1050, data={"source": "japanese-vowels"}, train={"batch_size": 32, "warmup_steps": 50}
    ),
}


def overlay(changes: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with a table's changes."""
    return merged(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), copy.deepcopy(changes))


def make(name: str) -> None:
    """Runs what is missing of a table and writes docs/results/<name>."""
    params = parse_params(overlay(TABLES[name]), f"params of {name}")
    out = REPOSITORY / "docs" / "results" / name
    # Before the sweep, which takes hours and may rewrite tracked results.
    started_from = commit(REPOSITORY)
    if not (shards_folder(params, REPOSITORY) / "manifest.json").is_file():
        fetch(params, REPOSITORY, _say)
        shard(params, REPOSITORY, _say)
    sweep(params, REPOSITORY, _say, out=out)
    record = {
        "command": f"python docs/tables.py {name}",
        "commit": started_from,
        "hardware": hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "changes": TABLES[name],
        "supervised_steps": params.sweep.supervised_steps,
    }
    write_json(out / "run.json", record)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    names = list(TABLES) if sys.argv[1:] == ["--all"] else sys.argv[1:]
    if "--list" in names or not names:
        print("\n".join(TABLES))
    elif unknown := set(names) - set(TABLES):
        sys.exit(f"no table {min(unknown)!r}; there are: {', '.join(TABLES)}")
    else:
        for name in names:
            make(name)
