"""Files of strangers: pickles hold arrays, numbers and text alone, as CIFAR comes in, and archives are unpacked into their folder alone."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("__builtin__", "bytes")}
    | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
)
"""What an array is made of, by module and name, as Python 2 and NumPy before and since version 2 wrote it."""


def load_arrays(content: bytes) -> Any:
    """Read a pickle whose checksum is right; knowing no name but an array's, it makes that not all that stands before foreign code.

    Raises:
        pickle.UnpicklingError: it holds something else.
    """
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _NAMES:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an array")
        return super().find_class(module_name, global_name)


@contextmanager
def safe_extraction() -> Iterator[None]:
    """Let tarfile refuse what leads out of the folder, links to there, and devices, when code that we call does not ask it to.

    Python has its filter since 3.11.4, and applies it unasked since 3.14. In an older one nothing is changed: there, a checksum is all
    that stands before an archive.
    """
    if not hasattr(tarfile, "data_filter"):
        yield
        return
    before = vars(tarfile.TarFile)["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before
