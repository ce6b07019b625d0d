import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sslkit.training.device import tf32

BACKENDS: Any = torch.backends
NEWER = hasattr(BACKENDS.cudnn, "conv")


def found(name: str) -> Any:
    """One switch; None where torch will not say, as somebody has set another one."""
    switches = {
        "matmul": torch.get_float32_matmul_precision,
        "cublas": lambda: BACKENDS.cuda.matmul.allow_tf32,
        "cudnn": lambda: BACKENDS.cudnn.allow_tf32,
        "all": lambda: BACKENDS.fp32_precision,
        "new_matmul": lambda: BACKENDS.cuda.matmul.fp32_precision,
        "new_cpu": lambda: BACKENDS.mkldnn.matmul.fp32_precision,
        "new_convolution": lambda: BACKENDS.cudnn.conv.fp32_precision,
        "new_recurrent": lambda: BACKENDS.cudnn.rnn.fp32_precision,
    }
    try:
        return switches[name]()
    except RuntimeError:
        return None


OLD = ("matmul", "cublas", "cudnn")
ALL = (*OLD, "all", "new_matmul", "new_cpu", "new_convolution", "new_recurrent") if NEWER else OLD


def state() -> dict[str, Any]:
    return {name: found(name) for name in ALL}


@pytest.fixture
def switches() -> Iterator[None]:
    """Whatever a test does to them."""
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    if NEWER:
        BACKENDS.fp32_precision = "none"
        BACKENDS.cuda.matmul.fp32_precision = "none"
        BACKENDS.mkldnn.matmul.fp32_precision = "none"


PREPARED: dict[str, Callable[[], object]] = {
    "torch's defaults": lambda: None,
    "old ones": lambda: (torch.set_float32_matmul_precision("medium"), setattr(BACKENDS.cudnn, "allow_tf32", False)),
}
if NEWER:
    PREPARED |= {
        "a newer one": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
        "another newer one": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
        "the generic one": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    }


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("prepare", PREPARED.values(), ids=PREPARED)
@pytest.mark.parametrize("allowed", [True, False])
def test_all_switches_agree_and_are_put_back(allowed: bool, prepare: Any):
    """Torch has two sets of them. Those who mix them get errors from torch.compile, and TF32 where they have not looked."""
    prepare()
    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tf32(allowed=allowed):
            inside = state()
        with pytest.raises(ValueError, match="broken"), tf32(allowed=allowed):
            raise ValueError("broken")
    assert state() == before
    assert [inside[name] for name in OLD] == ["high" if allowed else "highest", allowed, allowed]
    assert {inside[name] for name in ALL if name.startswith("new")} <= {"tf32" if allowed else "ieee"}
