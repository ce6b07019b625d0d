"""Whether a tensor is still what it was: a checksum that a change by accident does not survive."""

import zlib

from torch import Tensor

from sslkit.data.chunk_map import map_chunks

_CHUNK = 4096  # rows


def checksum(tensor: Tensor) -> tuple[object, ...]:
    """What of a tensor changes when somebody writes into it, by way of torch or of NumPy: its CRC-32, piece by piece.

    A gigabyte takes less than half a second. It guards against mistakes; it proves nothing to somebody who means to deceive.
    """
    crcs = map_chunks(
        lambda rows: zlib.crc32(rows.cpu().contiguous().numpy().data), tensor.split(_CHUNK), "comparing images with what was loaded"
    )
    return tensor.device, tensor.dtype, tensor.shape, *crcs
