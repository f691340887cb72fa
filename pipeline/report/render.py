"""One HTML file out of the template, the style, the script and the data. Nothing in it is asked from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2

from pipeline.plots.palette import custom_properties

_FOLDER = Path(__file__).parent


def render(context: dict[str, Any]) -> str:
    """The page.

    A policy in its head lets it run its one script, by its hash, and forbids any request: neither a class name nor a
    text can become code, and the page opens from a disk without a network.

    Args:
        context: values of the template; `data` is what `page.js` draws.
    """
    script = (_FOLDER / "page.js").read_text()
    # Inside a script element only these can end it, or begin what ends later.
    assert "</script" not in script.lower() and "<!--" not in script
    policy = (
        f"default-src 'none'; script-src 'sha256-{_sha256(script)}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return fill_template("page", context | {"policy": policy, "script": script})


def fill_template(name: str, values: dict[str, Any]) -> str:
    """A template of this folder with values, and with the styles beside it; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = custom_properties() + (_FOLDER / f"{name}.css").read_text()
    return environment.get_template(f"{name}.html").render(values, style=style)


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
