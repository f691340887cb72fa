"""Basic Motions: 80 recordings of a smart watch's accelerometer and gyroscope, 6 channels at 100 times each; the class
is what its wearer did."""

from __future__ import annotations

from pipeline.data.sources.base import RawFile
from pipeline.data.sources.ts_format import TsSeries

_PACKAGE = "aeon==1.6.0:aeon/datasets/data/BasicMotions/"


def _file(name: str, sha256: str, size: int) -> RawFile:
    return RawFile(name, sha256, size, {"pypi": (_PACKAGE + name,)})


BASIC_MOTIONS = TsSeries(
    name="basic-motions",
    labels={activity: activity for activity in ("Standing", "Running", "Walking", "Badminton")},
    train=_file("BasicMotions_TRAIN.ts", "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6", 227_790),
    test=_file("BasicMotions_TEST.ts", "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc", 227_713),
    num_channels=6,
    length=100,
    num_train=40,
)
