"""Docs that are made from the code are what the code says."""

from __future__ import annotations

import subprocess
import sys

from tests.project import REPOSITORY


def test_the_page_of_parameters_is_made_from_the_typed_models() -> None:
    done = subprocess.run(
        [sys.executable, "docs/params_table.py"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == (REPOSITORY / "docs/params.md").read_text(), (
        "run: python docs/params_table.py > docs/params.md"
    )


def test_published_tables_are_made_from_the_claims() -> None:
    done = subprocess.run(
        [sys.executable, "docs/claims.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
