"""The IDX format of MNIST and its relatives."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError

_UINT8 = 0x08


def read_idx(path: Path, num_dims: int) -> npt.NDArray[np.uint8]:
    """The array of an uncompressed IDX file of uint8 values, with `num_dims` dimensions.

    Layout: two zero bytes, the type (8: uint8), the number of dimensions, each size as big-endian uint32, the values.

    Raises:
        DataError: the file is missing, of another format, or its length is not what its header says.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
    header = 4 + 4 * num_dims
    if len(data) < header or data[:4] != bytes((0, 0, _UINT8, num_dims)):
        raise DataError(f"{path}: not an IDX file of uint8 values with {num_dims} dimension(s)")
    shape = struct.unpack(f">{num_dims}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise DataError(f"{path}: {len(data)} bytes, its header says {expected}; the file is truncated or damaged")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
