"""docs/ as a site: links that leave docs/ lead somewhere in it, and nothing in it is loaded from elsewhere."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site_links import _relinked, place
from tests.helpers.project import REPOSITORY


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("README.md", "index.md"),
        ("docs/method.md", "method.md"),
        ("docs/results/targets.yaml", "repository/docs/results/targets.yaml.md"),
        ("cluster.yaml", "repository/cluster.yaml.md"),
        ("data/README.md", "repository/data/README.md"),
        ("results/evaluate/figures/swap.png", "repository/results/evaluate/figures/swap.png"),
        ("docs/results/mnist-labels/plot.png", "results/mnist-labels/plot.png"),
    ],
)
def test_each_file_of_the_repository_has_one_place_in_the_site(source: str, where: str) -> None:
    assert place(source) == where


@pytest.mark.parametrize(
    ("source", "line", "relinked"),
    [
        ("README.md", "[a](docs/metrics.md#class)", "[a](metrics.md#class)"),
        ("README.md", "![a](docs/report.png)", "![a](report.png)"),
        ("docs/cluster.md", "[a](../cluster.yaml), [b](data.md)", "[a](repository/cluster.yaml.md), [b](data.md)"),
        ("docs/results/method.md", "[a](../metrics.md)", "[a](../metrics.md)"),
        ("data/README.md", "[a](../docs/data.md)", "[a](../../data.md)"),
        ("README.md", "[a](docs/results) and [b](tests)", "[a](results/README.md) and b"),
        ("README.md", "[a](https://example.org/x.md), [b](#b)", "[a](https://example.org/x.md), [b](#b)"),
    ],
)
def test_a_link_of_the_git_host_leads_to_the_same_text_in_the_site(source: str, line: str, relinked: str) -> None:
    assert _relinked(line, source, REPOSITORY) == relinked


class _References(HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("prev", "next", "canonical"):
            self.loaded.append(values.get("href") or "")
        if values.get("src"):
            self.loaded.append(values["src"] or "")
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_needs_no_network_and_has_no_dead_link(tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    pages = sorted(site.rglob("*.html"))
    names = {path.relative_to(site).as_posix() for path in pages}
    assert {"index.html", "api/model.html", "repository/cluster.yaml.html"} <= names
    assert not list(site.rglob("*.py")), "scripts are no part of the site"
    for page in pages:
        if page.name == "404.html":  # served by a host, from its root
            continue
        references = _References()
        references.feed(page.read_text())
        assert not [address for address in references.loaded if re.match(r"(https?:)?//", address)], page
        for link in references.loaded + references.links:
            path = link.partition("#")[0]
            if path and not re.match(r"[a-z]+:", path):
                target = posixpath.normpath((page.parent / path).as_posix())
                assert Path(target).exists(), f"{page.relative_to(site)}: {link}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?https?:", sheet.read_text()), sheet
    assert "f_inv(x), the single-example embedding" in (site / "api/inference.html").read_text()
