"""Japanese Vowels (Kudo, Toyama, Shimbo 1999): 640 utterances of two vowels by nine men, 12 cepstrum coefficients at 7
to 29 times; the class is the speaker."""

from __future__ import annotations

from pipeline.data.sources.base import RawFile
from pipeline.data.sources.ts_format import TsSeries

_PACKAGE = "aeon==1.6.0:aeon/datasets/data/JapaneseVowels/"


def _file(name: str, sha256: str, size: int) -> RawFile:
    return RawFile(name, sha256, size, {"pypi": (_PACKAGE + name,)})


JAPANESE_VOWELS = TsSeries(
    name="japanese-vowels",
    labels={str(speaker): f"speaker-{speaker}" for speaker in range(1, 10)},
    train=_file("JapaneseVowels_TRAIN.ts", "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd", 487_971),
    test=_file("JapaneseVowels_TEST.ts", "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462", 649_132),
    num_channels=12,
    length=29,
    num_train=270,
)
