"""What a device broke down on, said in words that help: memory that does not suffice, a kernel that does not exist, one that failed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sslkit.contract.errors import RunFailedError

_SHORTAGE = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN's, when none of its algorithms gets its work space
    "Unable to find a valid cuDNN algorithm",
)
_NOT_DETERMINISTIC = " does not have a deterministic implementation"
_CUBLAS_BEGAN_EARLIER = "CUBLAS_WORKSPACE_CONFIG"
_FAILED_KERNEL = "CUDA error: "
_DEAD_WORKER = "DataLoader worker (pid"
"""Torch raises this out of a signal handler: for anybody's loader, in the midst of anything."""
_NO_VARIANCE = "Expected more than 1 value per channel when training"


@contextmanager
def explaining_breakdown(work: str, device: torch.device) -> Iterator[None]:
    """Turn what a device refuses into one line that says what to do.

    Args:
        work: what was being done, with the sizes that decide how much memory it takes.
        device: where.

    Raises:
        RunFailedError: memory did not suffice, an operation has no deterministic kernel and needs one, a kernel failed, or BatchNorm
            was given a single value.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _shortage(work, device) from error
    except ValueError as error:
        if _NO_VARIANCE not in str(error):
            raise
        raise RunFailedError(f"BatchNorm cannot normalise one value a channel in {work}", fix="raise batch_size to 2 or more") from error
    except RuntimeError as error:
        explained = _explain(str(error), work, device)
        if explained is None:
            raise
        raise explained from error


def _shortage(work: str, device: torch.device) -> RunFailedError:
    return RunFailedError(
        f"out of memory on {device} in {work}", fix="lower batch_size or image_size, or take a smaller backbone; checkpoints are kept"
    )


def _explain(text: str, work: str, device: torch.device) -> RunFailedError | None:
    if any(sign in text for sign in _SHORTAGE):  # torch has a class of its own for GPUs alone, and libraries beneath it have none
        return _shortage(work, device)
    if _NOT_DETERMINISTIC in text:
        operation = text.partition(_NOT_DETERMINISTIC)[0].split()[-1]
        return RunFailedError(f"{operation} has no deterministic kernel on {device}, in {work}", fix="set deterministic = false there")
    if _CUBLAS_BEGAN_EARLIER in text:
        return RunFailedError(
            f"deterministic products are not to be had on {device} any more, in {work}: this process has multiplied there before",
            fix="set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment",
        )
    if _DEAD_WORKER in text:
        return RunFailedError(
            f"a process of a torch DataLoader died, as the system does to one when memory is short, in {work}",
            fix="the same command goes on from the last checkpoint; lower the number of workers if it happens again",
        )
    if _FAILED_KERNEL in text:  # is heard of later, anywhere: the traceback shows an innocent
        reason = text.partition(_FAILED_KERNEL)[2].splitlines()[0]
        return RunFailedError(
            f"{device} failed in {work}: {reason}",
            fix='often an index or a label out of range, which device = "cpu" names; checkpoints are kept',
        )
    return None
