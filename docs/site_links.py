"""MkDocs hook: what the pages say of files outside docs/ leads somewhere in the site too.

The pages are written for a Git host, where `../cluster.yaml` is a link like any other. In the site README.md is the
home page and CHANGELOG.md a page, and each other file of the repository that a page links to becomes one below
`repository/`: Markdown as it is, pictures as they are, everything else as a listing. A link to a folder becomes plain
text, one to a file that does not exist is left for `mkdocs build --strict` to complain about.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages of the site whose source lies outside docs/.
_PLACES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_PICTURES = {".png", ".svg", ".jpg"}
_LANGUAGES = {".json": "json", ".py": "python", ".sh": "sh", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that pages lead to, and those that these lead to."""
    root = Path(config.config_file_path).parent
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(_PLACES)
    seen = set(waiting)
    for source in _PLACES:
        files.append(_generated(root / source, source, config))
    while waiting:
        source = waiting.pop()
        for target in _targets((root / source).read_text(), source):
            if target in seen or not (root / target).is_file() or files.get_file_from_path(place(target)):
                continue
            seen.add(target)
            files.append(_generated(root / target, target, config))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Points the page's links to where their targets lie in the site."""
    root = Path(config.config_file_path).parent
    source = _source(page.file.src_uri)
    if source is None:  # a listing
        return markdown
    return "".join(_relinked(line, source, root) if prose else line for line, prose in _lines(markdown))


def place(source: str) -> str:
    """Where a file of the repository lies in the site's sources, both as paths from their root."""
    if source in _PLACES:
        return _PLACES[source]
    as_it_is = Path(source).suffix in {".md"} | _PICTURES
    if source.startswith("docs/") and as_it_is:
        return source.removeprefix("docs/")
    return f"repository/{source}" if as_it_is else f"repository/{source}.md"


def _source(uri: str) -> str | None:
    """The file of the repository that a page is made of; None for a listing."""
    for source, where in _PLACES.items():
        if uri == where:
            return source
    if not uri.startswith("repository/"):
        return f"docs/{uri}"
    source = uri.removeprefix("repository/")
    return source if place(source) == uri else None


def _generated(path: Path, source: str, config: MkDocsConfig) -> File:
    if path.suffix == ".md" or path.suffix in _PICTURES:
        return File.generated(config, place(source), abs_src_path=str(path))
    text = path.read_text()
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 3)
    language = _LANGUAGES.get(path.suffix, "text")
    return File.generated(config, place(source), content=f"# {source}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n")


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Lines, and whether they are prose, not code."""
    fence: str | None = None
    for line in markdown.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match is None:
            yield line, fence is None
            continue
        if fence is None:
            fence = match[1]
        elif match[1].startswith(fence):
            fence = None
        yield line, False


def _targets(markdown: str, source: str) -> Iterator[str]:
    """Files of the repository that a page links to."""
    for line, prose in _lines(markdown):
        for match in _LINK.finditer(line) if prose else ():
            target = _resolved(match["target"], source)
            if target is not None:
                yield target


def _resolved(link: str, source: str) -> str | None:
    """A relative link's target from the repository's root; None for addresses, anchors and what leaves it."""
    path, _, _ = link.partition("#")
    if not path or ":" in path or path.startswith("/"):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return None if target.startswith("..") else target


def _relinked(line: str, source: str, root: Path) -> str:
    here = posixpath.dirname(place(source))

    def new(match: re.Match[str]) -> str:
        target = _resolved(match["target"], source)
        if target is None:
            return match[0]
        if (root / target).is_dir():
            index = f"{target}/README.md"
            if not (root / index).is_file() or not target.startswith("docs/"):
                return match["text"]
            target = index
        _, mark, anchor = match["target"].partition("#")
        link = posixpath.relpath(place(target), here or ".")
        return f"{match['image']}[{match['text']}]({link}{mark}{anchor})"

    return _LINK.sub(new, line)
