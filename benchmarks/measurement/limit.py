"""The compute limit: sslkit's own forward, backward and optimizer in the best setting, on one batch that never changes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from measurement.gate import Gate
from measurement.workload import HEADS, Workload
from sslkit import Arrays, Backbone, Batch, DataInfo, Objective, RunContext, Step
from sslkit.contract.images import LabeledData
from sslkit.contract.runtime import Runtime, has_bfloat16
from sslkit.evaluators.classifier import Classifier, FrozenFeatures, build_heads
from sslkit.training.device import configured
from sslkit_rotnet import RotNet

Module = TypeVar("Module", bound=nn.Module)


def run(workload: Workload, gate: Gate) -> None:
    """See :class:`measurement.worker.Variant`."""
    with configured(Runtime(), workload.device):
        if workload.job == "features":
            _extract(workload, gate)
        else:
            _train(workload, gate, graphs=False)


def run_graphs(workload: Workload, gate: Gate) -> None:
    """A job that trains, replayed as a CUDA graph."""
    with configured(Runtime(), workload.device):
        _train(workload, gate, graphs=True)


def build_objective(workload: Workload) -> Objective:
    """The objective that sslkit trains for this job, on the device."""
    data = workload.data()
    backbone = _channels_last(workload.network(data.image()).to(workload.device))
    if workload.job == "pretrain":
        objective = RotNet().build_objective(backbone, DataInfo(data.image(), None))
    else:
        objective = _classifier(backbone, data, workload)
    return _channels_last(objective.to(workload.device).train())


def make_views(objective: Objective, workload: Workload) -> dict[str, Tensor]:
    """What the objective's forward pass takes, of the workload's first batch."""
    images = workload.batch()
    batch = Batch(images, torch.arange(len(images), device=workload.device))
    return objective.make_views(batch, torch.Generator(workload.device), train=True)


def autocast(device: torch.device) -> torch.autocast:
    """The fastest precision that training stands."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))


def _train(workload: Workload, gate: Gate, *, graphs: bool) -> None:
    objective = build_objective(workload)
    views = make_views(objective, workload)
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    forward = _compiled(objective, workload.device, mode="reduce-overhead" if graphs else "default")
    while True:
        optimizer.zero_grad(set_to_none=True)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(workload.device):
            output = forward(views, Step(objective.phases[0]))
        output.loss.backward()
        optimizer.step()
        gate.step(workload.batch_size)


def _extract(workload: Workload, gate: Gate) -> None:
    backbone = _channels_last(workload.network(workload.data().image()).to(workload.device).eval())
    images = workload.batch()
    forward = _compiled(backbone, workload.device)
    with torch.no_grad(), autocast(workload.device):  # entered once: it casts the weights once
        while True:
            forward(images, workload.used_layers)
            gate.step(workload.batch_size)


def _classifier(backbone: Backbone, data: Arrays, workload: Workload) -> Classifier:
    train, test = data.load("train"), data.load("test")
    assert train is not None
    assert test is not None
    labeled = LabeledData(train, test)
    context = RunContext(stage=workload.job, seed=0, device=workload.device, runtime=Runtime(precision="float32"))
    heads = build_heads(HEADS[workload.job], workload.used_layers, backbone, labeled, context)
    frozen = None if workload.job == "finetune" else FrozenFeatures()
    return Classifier(backbone, heads, labeled, frozen=frozen)


def _channels_last(module: Module) -> Module:
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks this overload


def _compiled(module: nn.Module, device: torch.device, mode: str = "default") -> Callable[..., Any]:
    return torch.compile(module, mode=mode) if device.type == "cuda" else module  # on a CPU it does not pay for convolutions
