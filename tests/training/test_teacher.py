"""The teacher against an average by hand, buffer by buffer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import ImageSpec, OptionError, Teacher
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv

RGB = ImageSpec(16, 16, "rgb", (0.5,) * 3, (0.25,) * 3)
MOMENTA = (0.9, 0.5, 0.99, 0.0, 1.0, 0.996)


class Counting(nn.Module):
    """Buffers of all kinds, one of which is replaced rather than written into."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("full", torch.tensor(False))
        self.register_buffer("hidden", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        self.steps += 1
        self.full = self.steps[0] > 2
        self.hidden *= 1.5
        return self.linear(x)


def student(*, dropout: float = 0.0) -> tuple[TinyConv, nn.Sequential]:
    with global_seed(0):
        head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False), nn.Dropout(dropout), Counting())
        return TinyConv(RGB, dropout=dropout), head


def images(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tensors(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    named = nn.ModuleDict({"backbone": backbone, "head": head})
    return {name: tensor.detach().clone() for name, tensor in [*named.named_parameters(), *named.named_buffers()]}


def train_a_step(backbone: TinyConv, head: nn.Module, seed: int) -> None:
    loss = head(backbone.train().embed(images(seed))).square().mean()
    parameters = [*backbone.parameters(), *head.parameters()]
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(0.3 * gradient)


@pytest.mark.parametrize("statistics", ["average", "batch"])
def test_it_is_the_moving_average_of_everything_in_the_student(statistics: Any):
    backbone, head = student()
    teacher = Teacher(backbone, head, statistics=statistics)
    expected = tensors(teacher.backbone, teacher.head)
    own = {name for name in expected if name.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}}
    for step, momentum in enumerate(MOMENTA):
        train_a_step(backbone, head, step)
        teacher.update(momentum)
        for name, theirs in tensors(backbone, head).items():
            if statistics == "average" or name not in own:
                mine = expected[name]
                expected[name] = momentum * mine + (1 - momentum) * theirs if theirs.is_floating_point() else theirs
    found = tensors(teacher.backbone, teacher.head)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert len(own) == 9
    assert found["head.3.seen"] > 1
    assert found["head.3.full"]


def test_with_statistics_of_each_batch_it_normalises_as_the_student_does_and_keeps_its_own():
    backbone, head = student(dropout=0.5)
    teacher = Teacher(backbone, head, statistics="batch").train()
    batch_norms = [module for module in teacher.modules() if hasattr(module, "running_mean")]
    assert [module for module in teacher.modules() if module.training] == batch_norms  # dropout stays off
    bare = nn.Sequential(*(module for module in head if not isinstance(module, nn.Dropout)))
    undisturbed = copy.deepcopy(backbone).train()
    undisturbed.body[3].eval()
    torch.testing.assert_close(teacher(images()), bare.train()(undisturbed.embed(images())))
    assert int(batch_norms[0].num_batches_tracked) == 1
    teacher.eval()
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(teacher(images())[:2], teacher(images()[:2]))
    assert int(batch_norms[0].num_batches_tracked) == 1


def test_with_averaged_statistics_it_never_leaves_eval_mode():
    backbone, head = student(dropout=0.5)
    teacher = Teacher(backbone, head)
    assert backbone.training
    assert not any(module.training for module in teacher.train().modules())
    before = tensors(teacher.backbone, teacher.head)
    alone = copy.deepcopy(backbone).eval()
    assert torch.equal(teacher.backbone.embed(images()), alone.embed(images()))
    assert all(torch.equal(before[f"backbone.{name}"], value) for name, value in teacher.backbone.state_dict().items())


def test_nobody_trains_it_and_a_state_dict_holds_it_alone():
    backbone, head = student()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        teacher = Teacher(backbone, head)
        output = teacher(images())
    assert output.dtype == torch.float32
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in [*backbone.parameters(), *head.parameters()])
    assert {name.partition(".")[0] for name in teacher.state_dict()} == {"backbone", "head"}
    assert len(list(teacher.parameters())) == len(list(backbone.parameters())) + len(list(head.parameters()))


def test_a_copy_of_both_follows_the_copy():
    pair = nn.ModuleDict({"backbone": student()[0]})
    pair["teacher"] = Teacher(pair["backbone"])
    twin = copy.deepcopy(pair)
    with torch.no_grad():
        for parameter in twin["backbone"].parameters():
            parameter.zero_()
    twin["teacher"].update(0.0)
    assert not any(parameter.any() for parameter in twin["teacher"].parameters())
    assert any(parameter.any() for parameter in pair["teacher"].parameters())


def test_without_a_head_it_gives_the_features_of_a_layer():
    backbone = student()[0].eval()
    teacher = Teacher(backbone)
    for layer in (None, "stem"):
        assert torch.equal(teacher(images(), layer), backbone.embed(images(), layer))


def test_it_follows_after_both_were_moved():
    backbone, head = student()
    whole = nn.ModuleList([backbone, head, Teacher(backbone, head)])
    whole[2].update(0.5)
    whole.double()  # replaces buffers
    with torch.no_grad():
        for tensor in [*head.parameters(), backbone.stem[1].running_mean]:
            tensor.add_(1.0)
    whole[2].update(0.0)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(whole[2].head.parameters(), head.parameters(), strict=True))
    assert torch.equal(whole[2].backbone.stem[1].running_mean, backbone.stem[1].running_mean)


@pytest.mark.parametrize("momentum", [-0.1, 1.01, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum: float):
    with pytest.raises(OptionError, match=r"^momentum: is out of range; found .*; allowed: 0 to 1"):
        Teacher(student()[0]).update(momentum)


def test_statistics_that_do_not_exist_are_refused():
    with pytest.raises(OptionError, match=r"^statistics: is unknown; found 'none'; allowed: average, batch$"):
        Teacher(student()[0], statistics="none")  # type: ignore[arg-type]
