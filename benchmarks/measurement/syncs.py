"""How often a step of sslkit's training loop makes the host wait for the GPU."""

import warnings
from contextlib import suppress

import torch

from measurement.product import AUGMENT
from measurement.workload import Workload
from sslkit import DataInfo, Loader, RunContext, StepEnd, TrainingOptions, fit
from sslkit.contract.errors import RunInterruptedError
from sslkit.contract.events import Event
from sslkit.contract.runtime import Runtime
from sslkit.training.device import configured
from sslkit_rotnet import RotNet

_FIRST, _STEPS = 5, 20
"""Steps before counting begins, in which kernels are chosen and images are checked once; and steps counted."""

_SIGN = "called a synchronizing CUDA operation"
"""Of torch's warnings, of which one says that the mode itself is a prototype."""


def syncs_per_step(work: Workload) -> float:
    """Of pretraining, between two steps that are logged. On CUDA alone: nothing counts them elsewhere."""
    images = work.data().load("pretrain")
    assert images is not None
    objective = RotNet().build_objective(work.network(images.image), DataInfo(images.image, len(images)))
    loader = Loader(images, batch_size=work.batch_size, device=work.device, options=AUGMENT)
    seen = 0

    def count(event: Event) -> None:
        nonlocal seen
        if isinstance(event, StepEnd):
            seen = event.step
            torch.cuda.set_sync_debug_mode("warn" if _FIRST <= seen < _FIRST + _STEPS else "default")

    context = RunContext(
        stage="syncs",
        seed=0,
        device=work.device,
        runtime=Runtime(compile=False, log_every=1_000_000),
        emit=count,
        should_stop=lambda: seen >= _FIRST + _STEPS,
    )
    with configured(Runtime(), work.device), warnings.catch_warnings(record=True) as caught, suppress(RunInterruptedError):
        warnings.simplefilter("always")
        try:
            fit(objective, loader, None, TrainingOptions(batch_size=work.batch_size, epochs=1000), context)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(_SIGN in str(warning.message) for warning in caught) / _STEPS
