"""How much of a training step its views take: steps that make two SimCLR views, and steps that see the same ones again, in turns."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn
from torchvision.models import resnet18, resnet50

from measurement.limit import autocast
from measurement.simclr_views import Views, batches, sequence
from sslkit.contract.runtime import Runtime
from sslkit.training.device import configured
from sslkit.views.transform import compose


def cases(device: torch.device) -> Mapping[str, tuple[Views, nn.Module]]:
    """By name: what to make, and the network that sees it. The small one is CIFAR's, whose first convolution has a stride of 1."""
    small = resnet18(num_classes=128)
    small.conv1, small.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.MaxPool2d(1)
    return {
        "32 px, ResNet-18": (Views(size=32, canvas=32, batch_size=512, num_images=1024, device=device), small),
        "224 px, ResNet-50": (Views(size=224, canvas=256, batch_size=128, num_images=256, device=device), resnet50(num_classes=128)),
    }


def view_percent(work: Views, network: nn.Module, *, steps: int = 10, rounds: int = 3) -> float:
    """Percent of a step's time that it takes to make two views of each image.

    Args:
        work: what to make, and where.
        network: (N, 3, size, size) floats in, (N, D) out; trained as it is by default: bfloat16 where there is some, not compiled.
        steps: of each kind in a round.
        rounds: of which the fastest step of each kind counts.
    """
    with configured(Runtime(), work.device):
        network = network.to(work.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        generator, functions = Generator(work.device).manual_seed(0), sequence(work)
        images = next(batches(work))

        def views() -> Tensor:
            return torch.cat([compose(functions, images, generator) for _ in range(2)])

        def step(inputs: Tensor) -> None:
            with autocast(work.device):
                outputs = network((inputs / 255).contiguous(memory_format=torch.channels_last))
            outputs.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        fixed = views()
        kinds = {"fixed": lambda: step(fixed), "made": lambda: step(views())}
        for one in kinds.values():
            _seconds(one, 3, work.device)
        turns = [{kind: _seconds(one, steps, work.device) for kind, one in kinds.items()} for _ in range(rounds)]
    taken = {kind: min(turn[kind] for turn in turns) for kind in kinds}
    return 100 * (1 - taken["fixed"] / taken["made"])


def _seconds(work: Callable[[], None], steps: int, device: torch.device) -> float:
    since = time.perf_counter()
    for _ in range(steps):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - since
