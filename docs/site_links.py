"""MkDocs hook: links from docs/ to other files of the repository lead to a place in the site.

The pages are written for a Git host, where `../cluster.yaml` is a link like any other. In the site README.md is the
home page and CHANGELOG.md a page; any other file that a page links to gets a page below `repository/`, Markdown and
pictures as they are, the rest as a listing. A link to a folder becomes its README or plain text. A link to a missing
file is left for `mkdocs build --strict` to report.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_PLACES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[(?P<text>[^\]\[]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_AS_THEY_ARE = {".md", ".png", ".svg", ".jpg"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that pages link to, and those that these link to."""
    root = Path(config.config_file_path).parent
    sources = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(_PLACES)
    for source in sources:  # it grows
        path, uri = root / source, place(source)
        if not files.get_file_from_path(uri):
            if path.suffix in _AS_THEY_ARE:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
            else:
                listing = f"# {source}\n\n~~~~~~{path.suffix[1:] or 'text'}\n{path.read_text()}\n~~~~~~\n"
                files.append(File.generated(config, uri, content=listing))
        if path.suffix == ".md":
            found = (_resolved(link["path"], source) for link in _LINK.finditer(path.read_text()))
            sources += [
                target for target in dict.fromkeys(found) if target not in sources and (root / target).is_file()
            ]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Points the page's links to the places of their targets in the site."""
    root, uri = Path(config.config_file_path).parent, page.file.src_uri
    source = next((source for source, where in _PLACES.items() if uri == where), f"docs/{uri}")
    source = uri.removeprefix("repository/") if uri.startswith("repository/") else source
    return _relinked(markdown, source, root) if (root / source).is_file() else markdown  # no file: a listing


def place(source: str) -> str:
    """Path in the site's sources of a file of the repository."""
    if source in _PLACES:
        return _PLACES[source]
    as_it_is = Path(source).suffix in _AS_THEY_ARE
    if source.startswith("docs/") and as_it_is:
        return source.removeprefix("docs/")
    return f"repository/{source}" if as_it_is else f"repository/{source}.md"


def _resolved(link: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _relinked(markdown: str, source: str, root: Path) -> str:
    def new(match: re.Match[str]) -> str:
        target = _resolved(match["path"], source)
        if (root / target).is_dir():
            if not target.startswith("docs/") or not (root / target / "README.md").is_file():
                return match["text"]
            target += "/README.md"
        if not (root / target).is_file() or target.startswith(("..", "/")):
            return match[0]
        link = posixpath.relpath(place(target), posixpath.dirname(place(source)) or ".")
        return f"[{match['text']}]({link}{match['anchor'] or ''})"

    return _LINK.sub(new, markdown)
