"""Archives that somebody else unpacks for us, and that must stay in their folder."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager


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
