"""A web server for tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.site import Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    made = Site()
    yield made
    made.close()
