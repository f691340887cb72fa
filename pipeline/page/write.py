"""One HTML file out of the template, the style, the scripts and the data. Nothing in it is asked from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent


def render(context: dict[str, Any], scripts: list[str]) -> str:
    """The page.

    A policy in its head lets it run these scripts alone, by their hashes, and forbids any request: neither a class name
    nor a text can become code, and the page opens from a disk without a network.

    Args:
        context: what the template says; `data` is what `page.js` draws.
        scripts: libraries, run in this order before `page.js`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [*scripts, (_FOLDER / "page.js").read_text()]
    for script in scripts:
        # Inside a script element only these can end it, or begin what ends later.
        assert "</script" not in script.lower() and "<!--" not in script
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return environment.get_template("page.html").render(
        context, policy=policy, scripts=scripts, style=(_FOLDER / "page.css").read_text()
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
