"""Documentation of Python packages by what they are for: four topics of some 200 texts each."""

from __future__ import annotations

import importlib
import inspect
import random
import re
from pathlib import Path

TOPICS: dict[str, str] = {
    "statistics": "scipy.stats",
    "learning": "sklearn.ensemble sklearn.linear_model sklearn.svm sklearn.neighbors sklearn.cluster "
    "sklearn.decomposition sklearn.preprocessing sklearn.metrics sklearn.model_selection",
    "tensors": "torch torch.nn torch.nn.functional torch.optim",
    "system": "os socket subprocess threading asyncio multiprocessing shutil pathlib logging email.message http.client "
    "urllib.request zipfile tarfile sqlite3 ssl tempfile ray ray.util argparse json signal selectors socketserver "
    "unittest unittest.mock concurrent.futures datetime io collections typing inspect ast configparser csv",
}
_EACH, _UNLABELLED = 200, 25
_SHORTEST, _SHORTEST_OF_METHOD = 250, 200


def make_texts(folder: Path) -> None:
    """Four classes of up to 175 texts, and 100 in `unlabelled/`."""
    rng = random.Random(3)
    for topic, modules in TOPICS.items():
        texts = _texts_of(modules.split(), rng)
        for i, (name, text) in enumerate(texts):
            place = folder / (topic if i < len(texts) - _UNLABELLED else "unlabelled")
            place.mkdir(parents=True, exist_ok=True)
            readable = re.sub(r"\W", "_", name)[:60]
            (place / f"{readable}_{i}.txt").write_text(text, encoding="utf-8", errors="replace")


def _texts_of(modules: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """Name and text of what the modules document; of their classes' methods too where that is too few."""
    found: dict[str, str] = {}
    methods: dict[str, str] = {}
    for module in map(importlib.import_module, modules):
        for name, member in _members(module):
            _note(found, f"{module.__name__}.{name}", member, _SHORTEST)
            if inspect.isclass(member):
                for method, function in _members(member):
                    _note(methods, f"{module.__name__}.{name}.{method}", function, _SHORTEST_OF_METHOD)
    texts = _shuffled(found, rng)[:_EACH]
    if len(texts) < 0.75 * _EACH:
        texts += _shuffled({text: name for text, name in methods.items() if text not in found}, rng)
    return texts[:_EACH]


def _members(of: object) -> list[tuple[str, object]]:
    return [(name, getattr(of, name, None)) for name in dir(of)]


def _note(found: dict[str, str], name: str, member: object, shortest: int) -> None:
    text = inspect.getdoc(member)
    if text and len(text) > shortest:
        found.setdefault(text, name)


def _shuffled(found: dict[str, str], rng: random.Random) -> list[tuple[str, str]]:
    texts = sorted((name, text) for text, name in found.items())
    rng.shuffle(texts)
    return texts
