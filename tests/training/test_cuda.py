"""What only a GPU can show. Everything is small: together these tests are to take less than a minute."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sslkit import (
    KNN,
    LARS,
    NIN,
    SGD,
    Augment,
    Backbone,
    Batch,
    DataInfo,
    FineTune,
    ImageSpec,
    Objective,
    RunFailedError,
    RunInterruptedError,
    SemiSupervised,
    Step,
    StepEnd,
    StepOutput,
    TrainingOptions,
    evaluate,
    fit,
)
from sslkit.backbones.from_timm import TimmBackbone
from sslkit.contract.events import Event
from sslkit.contract.runtime import Runtime
from sslkit.data.loader import Loader
from sslkit.training.device import configured, describe_device, explaining_breakdown
from sslkit.training.features import extract_features
from sslkit.training.seeds import global_seed, make_generator
from sslkit_rotnet import RotNet
from sslkit_rotnet.transforms import NAMED
from tests.contract.contexts import make_context
from tests.contract.families import FAMILIES, Family, assert_same, build, every_family, train
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.images import tiny_images
from tests.evaluators.labeled import arrays
from tests.training.brightness import Brightness
from tests.training.transfers import on_waiting

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
AUGMENT = Augment(crop_padding=2, horizontal_flip=True)
COMPILED = {"compiled": {"compile": True}, "graphs": {"compile": True, "cuda_graphs": True}}
WAYS = {"eager": {}, **COMPILED}


def small_nin(image: ImageSpec) -> Backbone:
    return NIN(image, num_blocks=3, width=0.1)


def rotnet(backbone: Callable[[ImageSpec], Backbone] = small_nin, **options: object) -> Objective:
    image = tiny_images(1).image
    with global_seed(0):
        return RotNet(**options).build_objective(backbone(image), DataInfo(image, 64))


def interrupted_after(steps: int) -> dict[str, Any]:
    taken: list[Event] = []
    return {
        "emit": lambda event: taken.append(event) if isinstance(event, StepEnd) else None,
        "should_stop": lambda: len(taken) >= steps,
    }


# ----------------------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_step_of_rotnet_never_waits_for_the_gpu(options: dict[str, bool]):
    """From the fourth step on: compiling may wait. So may the last step, whose metrics are read."""

    def forbid_waiting(event: Event) -> None:
        if isinstance(event, StepEnd):
            on_waiting("error" if 3 <= event.step < 7 else "default")

    objective = rotnet(TinyConv) if options else rotnet(transforms=tuple(NAMED))
    loader = Loader(tiny_images(64), batch_size=8, device=CUDA, options=AUGMENT)
    training = TrainingOptions(epochs=1, batch_size=8, clip_grad_norm=1.0)
    context = make_context(device=CUDA, channels_last=True, autocast=torch.bfloat16, log_every=1000, emit=forbid_waiting, **options)
    try:
        with configured(Runtime(), CUDA):
            assert fit(objective, loader, None, training, context).steps == 8
    finally:
        on_waiting("default")


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("training", "autocast"),
    [({"optimizer": LARS(), "accumulate_batches": 2}, torch.bfloat16), ({"optimizer": SGD(), "clip_grad_norm": 1.0}, torch.float16)],
    ids=["lars in parts", "float16"],
)
def test_neither_parts_nor_a_scaled_loss_are_waited_for(training: dict[str, Any], autocast: torch.dtype, options: dict[str, bool]):
    def forbid_waiting(event: Event) -> None:
        if isinstance(event, StepEnd):
            on_waiting("error" if 3 <= event.step < 7 else "default")

    loader = Loader(tiny_images(64), batch_size=8, device=CUDA, options=AUGMENT)
    context = make_context(device=CUDA, channels_last=True, autocast=autocast, log_every=1000, emit=forbid_waiting, **options)
    try:
        with configured(Runtime(), CUDA):
            assert fit(rotnet(TinyConv), loader, None, TrainingOptions(epochs=1, batch_size=8, **training), context).steps == 8
    finally:
        on_waiting("default")


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("autocast", [None, torch.float16], ids=["float32", "float16"])
def test_a_batch_in_parts_is_the_batch_on_a_gpu_too(autocast: torch.dtype | None, options: dict[str, bool]):
    found = []
    for parts in (1, 2):
        events: list[Event] = []
        objective = Brightness()
        objective.frozen = ("backbone.stem.1", "backbone.body.1")  # whose statistics would be those of a part
        loader = Loader(tiny_images(24), batch_size=8, device=CUDA)
        training = TrainingOptions(epochs=2, batch_size=8, accumulate_batches=parts, optimizer=SGD(lr=0.1))
        context = make_context(device=CUDA, autocast=autocast, log_every=1, emit=events.append, **options)
        with configured(Runtime(precision="float32"), CUDA):
            fit(objective, loader, None, training, context)
        found.append(
            [event.metrics[name] for event in events if isinstance(event, StepEnd) for name in ("loss", "gradient_norm", "too_bright")]
        )
    assert found[1] == pytest.approx(found[0], rel=0.02 if autocast else 1e-3, abs=1e-4)


def test_images_that_workers_decode_are_the_same_and_are_not_waited_for():
    order = torch.randperm(64)
    resident, decoded = (
        Loader(tiny_images(64, resident=resident), batch_size=8, device=CUDA, options=AUGMENT) for resident in (True, False)
    )
    expected = list(resident.batches(order, generator=make_generator(1, CUDA)))
    found = []
    try:
        for batch in decoded.batches(order, generator=make_generator(1, CUDA)):
            found.append(batch)
            on_waiting("error")
    finally:
        on_waiting("default")
    assert len(found) == len(expected) == 8
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.indices, two.indices)


@pytest.mark.parametrize("build_backbone", [small_nin, TinyTokens])
def test_features_are_those_of_a_cpu_and_are_waited_for_once(build_backbone: Callable[[ImageSpec], Backbone]):
    images = tiny_images(160)
    with global_seed(0):
        backbone = build_backbone(images.image)
    layers = backbone.layer_names[:2]
    expected = extract_features(backbone, Loader(images, batch_size=8, device=torch.device("cpu")), layers, None)
    loader = Loader(images, batch_size=8, device=CUDA)
    backbone.to(CUDA)
    with configured(Runtime(precision="float32"), CUDA), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_waiting("warn")
        try:
            found = extract_features(backbone, loader, layers, None)
        finally:
            on_waiting("default")
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-4)
    assert len([warning for warning in caught if "synchronizing" in str(warning.message)]) == 1 + len(layers)


# -------------------------------------------------------------------------------------------------------------- randomness


@every_family
def test_an_interrupted_fit_ends_with_the_same_bits(family: Family, tmp_path: Path):
    with configured(Runtime(deterministic=True), CUDA):
        whole = build(family)
        expected = train(whole, family, device=CUDA, folder=tmp_path / "whole")
        with pytest.raises(RunInterruptedError):
            train(build(family), family, device=CUDA, folder=tmp_path / "parts", **interrupted_after(5))
        resumed = build(family, seed=99)
        found = train(resumed, family, device=CUDA, folder=tmp_path / "parts")
    assert found == expected
    assert_same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("backbone", [small_nin, *(partial(TimmBackbone, model=model) for model in ("resnet18", "vit_tiny_patch16_224"))])
def test_bundled_networks_train_deterministically(backbone: Callable[[ImageSpec], Backbone]):
    """No operation of theirs lacks a deterministic kernel, and two runs end with the same bits."""
    data = arrays(size=32)
    network = backbone(data.image())
    states = []
    for _ in range(2):
        evaluator = FineTune(epochs=1, batch_size=8, optimizer=SGD(lr=0.01))
        result = evaluate(evaluator, network, data, runtime=Runtime(device="cuda", deterministic=True, compile=False))
        assert result.backbone is not None
        states.append(result.backbone.state_dict())
    assert_same(*states)


@every_family
def test_views_draw_from_their_generator_alone(family: Family):
    objective = build(family).to(CUDA)
    batch = Batch(tiny_images(8).read(range(8)).to(CUDA), torch.arange(8, device=CUDA))
    before = torch.cuda.get_rng_state()
    views = [objective.make_views(batch, make_generator(seed, CUDA), train=True) for seed in (0, 0)]
    assert_same(*views)
    assert {view.device.type for view in views[0].values()} == {"cuda"}
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_global_generators_are_seeded_and_put_back():
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    draws = []
    for _ in range(2):
        with global_seed(7, CUDA):
            draws.append(torch.rand(4, device=CUDA))
    assert torch.equal(*draws)
    with global_seed(7):
        draws.append(torch.rand(4, device=CUDA))
    assert not torch.equal(draws[0], draws[2])
    torch.cuda.set_rng_state(before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    with global_seed(7):
        pass
    assert torch.equal(torch.cuda.get_rng_state(), before[0])


# --------------------------------------------------------------------------------------------------------------- compiling


@pytest.mark.parametrize("options", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("name", ["rotation", "dino", "gan"])
def test_compiled_training_is_eager_training(name: str, options: dict[str, bool]):
    """The rate changes every step; DINO has a schedule and buffers that ``forward`` moves, the GAN two phases and two optimizers."""
    family = FAMILIES[name]._replace(backbone=partial(TinyConv, dropout=0.0))  # compiled dropout draws other numbers
    losses: list[list[float]] = []
    for way in ({}, options):
        events: list[Event] = []
        with configured(Runtime(precision="float32", compile=bool(way)), CUDA):
            train(build(family), family, device=CUDA, measure=False, log_every=1, emit=events.append, **way)
        losses.append([v for event in events if isinstance(event, StepEnd) for k, v in event.metrics.items() if k.endswith("loss")])
    assert len(losses[0]) == 9 * (2 if name == "gan" else 1)
    assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=1e-3)


def test_nothing_of_a_stage_stays_on_the_gpu():
    few_labels = SemiSupervised(
        epochs=1, batch_size=8, labels_per_class=(2,), layers=("body",), head="linear", freeze=False, selection="random", num_subsets=3
    )
    runtime = Runtime(device="cuda", precision="float32", compile=True, cuda_graphs=True)
    data, allocated = arrays(), []
    for _ in range(2):
        evaluate(few_labels, TinyConv(data.image(), dropout=0.0), data, runtime=runtime)
        torch.cuda.empty_cache()
        allocated.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert allocated[1][0] <= allocated[0][0] + 2**20  # of the first, libraries keep work space
    assert allocated[1][1] <= allocated[0][1] + 2**21


# --------------------------------------------------------------------------------------------------------------- precision


def relative_errors() -> dict[str, float]:
    """Of a matrix product and of a convolution in float32, against float64."""
    draws = make_generator(0, CUDA)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws, device=CUDA)

    pairs = {"product": (random(512, 512), random(512, 512)), "convolution": (random(8, 64, 16, 16), random(64, 64, 3, 3))}
    operations = {"product": torch.matmul, "convolution": F.conv2d}
    errors = {}
    for name, pair in pairs.items():
        exact = operations[name](*(tensor.double() for tensor in pair))
        errors[name] = float((operations[name](*pair) - exact).norm() / exact.norm())
    return errors


def test_float32_means_float32():
    for precision in ("float32", "auto", "bfloat16"):
        with configured(Runtime(precision=precision), CUDA):
            assert max(relative_errors().values()) < 1e-6


def test_tf32_is_used_where_it_is_asked_for():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    with configured(Runtime(precision="tf32"), CUDA):
        assert min(relative_errors().values()) > 1e-5
    with configured(Runtime(precision="tf32", deterministic=True), CUDA):
        assert min(relative_errors().values()) > 1e-5


# ------------------------------------------------------------------------------------------------------------ what may fail


class Greedy(Brightness):
    """Wants more memory than any GPU has."""

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        torch.empty(2**46, dtype=torch.uint8, device=views["images"].device)
        return super().forward(views, step)


def test_memory_that_does_not_suffice_is_said_in_one_line():
    loader = Loader(tiny_images(16), batch_size=8, device=CUDA)
    message = r"^out of memory on cuda in a test; lower batch_size or image_size"
    with pytest.raises(RunFailedError, match=message), explaining_breakdown("a test", CUDA), configured(Runtime(), CUDA):
        fit(Greedy(), loader, None, TrainingOptions(epochs=1, batch_size=8), make_context(device=CUDA))


BROKEN = """
import torch
from sslkit.training.device import explaining_breakdown
from sslkit.contract.runtime import Runtime
from sslkit.training.device import configured

cuda = torch.device("cuda")
square = torch.ones(64, 64)
with configured(Runtime(), cuda):
    square.to(cuda) @ square.to(cuda)
with configured(Runtime(deterministic=True), cuda):
    square.to(cuda) @ square.to(cuda)
print("deterministic after all")
with explaining_breakdown("a test", cuda), configured(Runtime(), cuda):
    square.to(cuda)[torch.tensor([99], device=cuda)]
    torch.cuda.synchronize()
"""


def test_a_later_stage_may_be_deterministic_and_a_failed_kernel_is_one_line():
    """In a process of its own, which has not multiplied before, and whose GPU is lost afterwards."""
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False)
    assert done.stdout == "deterministic after all\n", done.stderr
    assert "RunFailedError: cuda failed in a test: device-side assert triggered; often an index or a label out of range" in done.stderr


# ------------------------------------------------------------------------------------------------------------------- whole


def test_nearest_neighbours_are_those_of_a_cpu():
    data = arrays(60, 30)
    with global_seed(0):
        network = TinyConv(data.image())
    found = [
        evaluate(KNN(layers=("body",), k=5), network, data, runtime=Runtime(device=device, precision="float32")).metrics
        for device in ("cpu", "cuda")
    ]
    assert found[1] == pytest.approx(found[0], abs=100 / 30)  # one image may lie between two


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_gpu_is_used_where_it_is_named():
    runtime = Runtime(device="cuda:1", compile=True, cuda_graphs=True)
    data = arrays()
    evaluate(FineTune(epochs=1, batch_size=8), TinyConv(data.image()), data, runtime=runtime)
    assert torch.cuda.max_memory_allocated(1) > 0
    assert describe_device(torch.device("cuda:1"))
