"""The ways in which fetch can get a raw file. Each brings one file to a path, or raises WayFailed with the reason.

None of them is trusted: whatever comes is checked against the file's size and SHA-256 by the caller, and a way never
writes more than that size.
"""

from __future__ import annotations

from pipeline.ways.base import Way, WayFailed, mismatch
from pipeline.ways.https import Https
from pipeline.ways.local import from_folder, kept_before
from pipeline.ways.packages import Deb, Npm, Pypi

__all__ = ["Deb", "Https", "Npm", "Pypi", "Way", "WayFailed", "from_folder", "kept_before", "mismatch"]
