"""Work on many things that releases the interpreter lock (codecs, hashes, reading files), done by threads on all cores."""

import os
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sslkit.contract.progress import counting
from sslkit.data.image_file import naming_files
from sslkit.training.stopping import stop_if_asked

Chunk = TypeVar("Chunk", bound=Sized)
Result = TypeVar("Result")


def map_chunks(function: Callable[[Chunk], Result], chunks: Sequence[Chunk], what: str) -> list[Result]:
    """Apply ``function`` to each of ``chunks``, in threads on all cores; results come in order. ``what`` describes the work in words.

    An error or Ctrl-C ends it as soon as the chunks that have been begun are done.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    results: list[Result] = []
    try:
        with naming_files(), counting(what, sum(map(len, chunks))) as count:
            for chunk, result in zip(chunks, pool.map(function, chunks), strict=True):
                results.append(result)
                stop_if_asked(f"while {what}")
                count(len(chunk))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results
