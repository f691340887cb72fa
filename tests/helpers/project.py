"""A copy of the repository as a user's project, with params for a small data set."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]

# digits instead of MNIST, and little of everything: minutes become seconds, the parts stay the real ones.
SMALL: dict[str, Any] = {
    "data": {"source": "digits", "num_shards": 2, "val_size": 200},
    "model": {"r_dim": 8, "v_dim": 4, "channels": [8, 16], "hidden": 64, "decoder_hidden": [64]},
    # Two ranks, so that the tests see them exchange.
    "train": {
        "num_workers": 2,
        "threads_per_worker": 1,
        "epochs": 8,
        "min_steps": 0,
        "batch_size": 64,
        "warmup": 0.15,
        "timeout_s": 60,
        "precision": "float32",
    },
    "sweep": {"label_counts": [50, 100], "epochs": 4, "min_steps": 0, "supervised_steps": 100},
    "evaluate": {
        "batch_size": 200,
        "bound_samples": 2,
        "iw_samples": 5,
        "iw_points": 100,
        "probe_points": 1000,
        "leak_points": 1000,
        "probe_seeds": [0],
        "style_points": 300,
        "swap_points": 200,
        "oracle_steps": 100,
        "calibration_bins": 10,
    },
}


@functools.cache
def _shipped() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    return raw


def shipped_params() -> dict[str, Any]:
    """The raw params as they are shipped, to be changed."""
    return copy.deepcopy(_shipped())


def small_params(**sections: dict[str, Any]) -> dict[str, Any]:
    """The shipped params with SMALL and then `sections` over them."""
    raw = shipped_params()
    for changes in (SMALL, sections):
        for section, values in changes.items():
            raw[section] |= values
    return raw


def copy_project(folder: Path, **sections: dict[str, Any]) -> Path:
    """The repository's files with small params, in a new folder."""
    copy_repository(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(**sections), sort_keys=False))
    return folder


def copy_repository(folder: Path) -> Path:
    """The repository's files (tracked, or new and not ignored) as they are, in a new folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
    return folder


def environment() -> dict[str, str]:
    """The test's environment with this interpreter's commands first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def run(project: Path, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A command in the project's folder; `ie ...` runs the code that lies in it."""
    arguments = [sys.executable, "-m", "pipeline", *command[1:]] if command[0] == "ie" else list(command)
    return subprocess.run(
        arguments, cwd=project, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def succeed(project: Path, *command: str, timeout: float = 240) -> str:
    """`run` that must exit with 0; returns what it printed."""
    done = run(project, *command, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
