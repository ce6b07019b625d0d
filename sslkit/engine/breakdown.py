"""Memory that does not suffice, said in words that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sslkit.errors import RunFailedError

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def explaining_shortage(work: str, device: torch.device) -> Iterator[None]:
    """Turn an allocation that failed into one line that says what to lower.

    Args:
        work: what was being done, with the sizes that decide how much memory it takes.
        device: whose memory it is.

    Raises:
        RunFailedError: memory did not suffice.
    """
    shortage = RunFailedError(
        f"out of memory on {device} in {work}", fix="lower batch_size or image_size, or take a smaller backbone; checkpoints are kept"
    )
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise shortage from error
    except RuntimeError as error:  # torch has a class of its own for GPUs alone
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        raise shortage from error
