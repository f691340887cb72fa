"""docs/latents.md names the columns that latents have, in their order."""

from __future__ import annotations

import re

from pipeline.evaluation.latents import new_schema, schema
from tests.helpers.project import REPOSITORY
from tests.helpers.tiny import tiny_artifact


def test_the_page_of_latents_names_every_column_in_order() -> None:
    page = (REPOSITORY / "docs/latents.md").read_text()
    columns = schema(tiny_artifact(), {})
    first = [name for name in new_schema(columns).names if name not in columns.names[5:9]][:7]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == columns.names + first
