"""Four shapes of waves with noise and their slope, as a pair of .ts files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

SHAPES = ("sine", "square", "saw", "chirp")
_LENGTH = 60
_HEADER = (
    "@problemName wave\n@timeStamps false\n@missing false\n@univariate false\n@dimensions 2\n@equalLength true\n"
    f"@seriesLength {_LENGTH}\n@classLabel true {' '.join(SHAPES)}\n@data\n"
)


def make_waveforms(folder: Path) -> None:
    """400 series for training and 160 for test, of 2 channels and 60 times."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    for split, num in (("TRAIN", 400), ("TEST", 160)):
        with (folder / f"Waves_{split}.ts").open("w") as file:
            file.write(_HEADER)
            for i in range(num):
                shape = SHAPES[i % len(SHAPES)]
                channels = (",".join(f"{value:.4f}" for value in channel) for channel in _wave(shape, rng))
                file.write(":".join(channels) + f":{shape}\n")


def _wave(shape: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """`[2, T]`: a wave of random frequency, phase and height, and its slope."""
    frequency, begin, time = rng.uniform(1.5, 4), rng.uniform(0, 1), np.arange(_LENGTH) / _LENGTH
    phase = (frequency * time + begin) % 1
    values = {
        "sine": np.sin(2 * np.pi * phase),
        "square": np.sign(np.sin(2 * np.pi * phase)),
        "saw": 2 * phase - 1,
        "chirp": np.sin(2 * np.pi * (frequency * time * time + begin)),
    }[shape]
    height = rng.uniform(0.5, 2)
    wave = height * values + rng.normal(0, 0.15, _LENGTH)
    return np.stack([wave, height * np.gradient(values) + rng.normal(0, 0.1, _LENGTH)])
