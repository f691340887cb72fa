"""The published tables: each a sweep with its own budget, kept under docs/results with its command and commit.

`python docs/tables.py NAME...` makes some of them, `--all` all of them, `--list` names them. Trials that are finished
are not run again; an interrupted table resumes. The raw files and shards of a table's data are made first
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

from pipeline.config.overrides import merged  # noqa: E402
from pipeline.config.params import parse_params  # noqa: E402
from pipeline.config.paths import shards_folder  # noqa: E402
from pipeline.plots.figures import leak_against_bound  # noqa: E402
from pipeline.stages.fetch import fetch  # noqa: E402
from pipeline.stages.shard import shard  # noqa: E402
from pipeline.stages.sweep import sweep  # noqa: E402
from pipeline.utils.files import write_json  # noqa: E402
from pipeline.utils.hardware import hardware  # noqa: E402
from pipeline.utils.provenance import commit  # noqa: E402

TABLES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docs/results/tables.yaml").read_text())


def overlay(changes: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with a table's changes."""
    return merged(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), copy.deepcopy(changes))


def make(name: str) -> None:
    """Runs what is missing of a table and writes docs/results/<name>."""
    params = parse_params(overlay(TABLES[name]), f"params of {name}")
    out = REPOSITORY / "docs" / "results" / name
    # Before the sweep, which takes hours: the working tree may change meanwhile.
    started_from = commit(REPOSITORY)
    if not (shards_folder(params, REPOSITORY) / "manifest.json").is_file():
        fetch(params, REPOSITORY, _say)
        shard(params, REPOSITORY, _say)
    sweep(params, REPOSITORY, _say, out=out)
    if params.sweep.measures == "all":
        leak_against_bound(out / "measures.csv", out / "leak_against_bound.png")
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
