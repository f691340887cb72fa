"""Why a machine cannot have the cluster's lab is said when its tests are skipped."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.cluster.lab import missing


def test_a_user_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs Linux and root" in missing()


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool, path=None: None if tool in ("sshd", "rsync") else tool)
    assert missing() == "the cluster's lab needs openssh-server, rsync: apt-get install openssh-server rsync"
