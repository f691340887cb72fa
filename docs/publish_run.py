"""Keeps the main run's small tables in git, in docs/results/mnist-run: `make repro && python docs/publish_run.py`."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from pipeline.config.params import load_params  # noqa: E402
from pipeline.errors import PipelineError  # noqa: E402
from pipeline.results.origin import STAGES, belonging  # noqa: E402
from pipeline.utils.files import read_json, write_json  # noqa: E402

OUT = REPOSITORY / "docs/results/mnist-run"
FILES = (
    *(f"train/{name}" for name in ("history.csv", "metrics.json", "timing.json")),
    *(f"sweep/{name}" for name in ("metrics.json", "summary.md", "summary.tex", "table.csv", "timing.json")),
    *(f"evaluate/{name}" for name in ("measures.csv", "metrics.json", "timing.json")),
    *(f"{stage}/origin.json" for stage in STAGES),
    "report/model_card.md",
)


def publish() -> None:
    """Copies results of one run of MNIST, whole, with the commit that they were made at."""
    params = load_params(REPOSITORY / "params.yaml")
    found = belonging(params, REPOSITORY)
    if params.data.source != "mnist" or found.left_out or len(found.origins) < len(STAGES):
        sys.exit("; ".join(found.left_out) or "results/ holds no whole run of mnist; run `make repro`")
    for name in FILES:
        (OUT / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / "results" / name, OUT / name)
    where = read_json(OUT / "train/timing.json", "the training's time")
    run = {"command": "make repro", "date": datetime.now(UTC).date().isoformat()}
    write_json(OUT / "made_at.json", run | {name: where[name] for name in ("commit", "hardware")})


if __name__ == "__main__":
    try:
        publish()
    except PipelineError as error:
        sys.exit(str(error))
