"""The report of the main run: `python benchmarks/page.py [--small] [--project FOLDER]`, where `dvc repro` has run.

How long `ie report` takes from a terminal, how large its page is, and how soon the page can be used in headless
chromium: from the call that opens the file until everything is drawn and the browser answers. Each several times, a new
browser profile each time; the median. Writes benchmarks/results/page.json, unless it is `--small`.

`--picture FILE` takes a picture of the page's maps instead, with what a selected point shows.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402

_ROUNDS = 5


def stage_seconds(project: Path) -> float:
    """Wall seconds of `ie report`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", "report"], cwd=project, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def browser_path() -> str:
    """Of what there is."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("error: no browser; apt-get install chromium")
    return found


def take_picture(page: Path, out: Path) -> None:
    """The maps, with the detail of the first point of v."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path())
        opened = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        opened.goto(page.as_uri())
        opened.wait_for_selector("html[data-drawn]", state="attached")
        opened.locator("#map-v").scroll_into_view_if_needed()
        point = opened.locator("#map-v path").first.bounding_box()
        assert point is not None
        opened.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
        opened.mouse.move(0, 0)
        opened.screenshot(path=out)
        browser.close()


def usable_seconds(page: Path, rounds: int) -> list[float]:
    """Seconds until the page is drawn and answers."""
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path())
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            opened = context.new_page()
            started = time.perf_counter()
            opened.goto(page.as_uri())
            opened.wait_for_selector("html[data-drawn]", state="attached")
            opened.evaluate("new Promise(requestAnimationFrame)")
            seconds.append(time.perf_counter() - started)
            context.close()
        browser.close()
    return seconds


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published."""
    n = measured["rounds"]
    return [
        row("`ie report`", measured["stage_s"], "s", n, "below 60"),
        row("size of the page", measured["page_mb"], "MB", 1, "below 8"),
        row("until the page is usable", measured["usable_s"], "s", n, "at most 2", values=measured["all_usable_s"]),
    ]


def main() -> None:
    """Measures and keeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="once; writes no file")
    parser.add_argument("--project", type=Path, default=REPOSITORY, help="folder of results/")
    parser.add_argument("--picture", type=Path, help="takes a picture and measures nothing")
    arguments = parser.parse_args()
    project, rounds = arguments.project.resolve(), 1 if arguments.small else _ROUNDS
    if not (project / "results/evaluate/gallery.safetensors").is_file():
        sys.exit(f"error: no results in {project}; run `dvc repro` there, or give --project")
    if arguments.picture:
        take_picture(project / "results/report/index.html", arguments.picture)
        return
    stage = [stage_seconds(project) for _ in range(rounds)]
    page = project / "results/report/index.html"
    usable = usable_seconds(page, rounds)
    measured = {
        "stage_s": round(statistics.median(stage), 1),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "usable_s": round(statistics.median(usable), 2),
        "all_usable_s": [round(value, 2) for value in usable],
        "rounds": rounds,
    }
    keep("page", rows_of(measured), arguments.small)


if __name__ == "__main__":
    main()
