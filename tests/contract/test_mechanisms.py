"""What each miniature does is what its method says: without this, that they train would prove little."""

import copy
import math
from itertools import permutations

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import (
    SGD,
    BackboneError,
    Batch,
    DataError,
    DataInfo,
    ImageSpec,
    Objective,
    OptionError,
    Step,
    TrainContext,
    TrainingOptions,
    fit,
)
from sslkit.contract.evaluator import RunContext
from sslkit.data.loader import Loader
from sslkit.training.seeds import derive_seed, global_seed, make_generator
from tests.contract.families import CPU, FAMILIES, Family, build, train
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.byol import Bootstrap
from tests.contract.miniatures.colorization import Colorization, chroma
from tests.contract.miniatures.deepcluster import ClusterClassification, DeepCluster, k_means
from tests.contract.miniatures.dino import SelfDistillation
from tests.contract.miniatures.exemplar import Exemplar, SurrogateClassification
from tests.contract.miniatures.images import TinyImages, tiny_images
from tests.contract.miniatures.jigsaw import Jigsaw
from tests.contract.miniatures.mae import MAE, MaskedAutoencoding
from tests.contract.miniatures.rotation import Rotation
from tests.contract.miniatures.simclr import NTXent

RGB = ImageSpec(16, 16, "rgb", (0.5,) * 3, (0.25,) * 3)


def first_batch(num_images: int = 8) -> Batch:
    return next(Loader(tiny_images(num_images), batch_size=num_images, device=CPU).in_order())


def views_of(objective: Objective, batch: Batch) -> dict[str, Tensor]:
    return objective.make_views(batch, make_generator(0), train=True)


def make_generator_for(purpose: str) -> Generator:
    return make_generator(derive_seed(purpose))


def step_of(objective: Objective, progress: float = 0.5) -> Step:
    return Step("main", {name: torch.tensor(value(progress)) for name, value in objective.schedules().items()})


# ------------------------------------------------------------------------------------------- rotation, jigsaw, colorization


def test_rotation_turns_every_image_four_ways():
    batch = first_batch(3)
    views = views_of(build(Family(Rotation())), batch)
    for image, label, source in zip(views["images"], views["labels"], batch.images.repeat(4, 1, 1, 1), strict=True):
        turned = source
        for _ in range(label):
            turned = torch.stack([channel.T.flip(0) for channel in turned])  # transpose, then flip vertically
        assert torch.equal(image, turned)
    assert views["labels"].bincount().tolist() == [3, 3, 3, 3]


def test_jigsaw_builds_its_backbone_for_a_tile():
    assert Jigsaw().image_spec(RGB) == RGB._replace(height=8, width=8)
    with pytest.raises(OptionError, match="grid: does not divide images of 16 x 16; found 3"):
        Jigsaw(grid=3).image_spec(RGB)


def test_jigsaw_tiles_in_the_order_of_their_label_make_up_the_image():
    batch = first_batch()
    views = views_of(build(Family(Jigsaw())), batch)
    orders = list(permutations(range(4)))
    for image, tiles, label in zip(batch.images, views["tiles"].reshape(4, 8, 3, 8, 8).transpose(0, 1), views["labels"], strict=True):
        for tile, position in zip(tiles, orders[label], strict=True):
            row, column = divmod(position, 2)
            assert torch.equal(tile, image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
    assert len(views["labels"].unique()) > 1


def test_the_colorization_backbone_sees_nothing_but_lightness():
    spec = Colorization().image_spec(RGB)
    assert spec == ImageSpec(16, 16, "lightness", (0.5,), (0.25,))
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert TinyConv(spec).prepare(red).flatten() == pytest.approx((0.5324 - 0.5) / 0.25, abs=1e-3)
    assert chroma(red).flatten().tolist() == pytest.approx([0.8009, 0.6720], abs=1e-3)  # Lab of sRGB red: 53.24, 80.09, 67.20
    assert chroma(torch.full((1, 3, 2, 2), 77, dtype=torch.uint8)).abs().max() < 1e-4
    with pytest.raises(DataError, match="colorization needs images in colour; found 'gray'; allowed: rgb"):
        Colorization().image_spec(RGB._replace(color="gray"))


# ----------------------------------------------------------------------------------------- exemplar, DeepCluster: own sampling


def test_exemplar_trains_on_its_surrogate_classes_alone():
    objective = build(FAMILIES["exemplar"])
    assert isinstance(objective, SurrogateClassification)
    seen: list[tuple[int, int]] = []
    original = objective.make_views

    def watched(batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        views = original(batch, generator, train=train)
        seen.extend(zip(batch.indices.tolist(), views["labels"].tolist(), strict=True))
        return views

    objective.make_views = watched
    result = train(objective, FAMILIES["exemplar"])
    chosen = objective.exemplars.tolist()
    assert result.steps == 3 * 3  # 20 images an epoch in batches of 8
    assert sorted(seen) == sorted([(image, label) for label, image in enumerate(chosen)] * 2 * 3)
    assert chosen == sorted(set(chosen)) != list(range(10))


def test_exemplar_refuses_more_classes_than_images():
    with pytest.raises(OptionError, match="num_classes: is more than there are images; found 9; allowed: 1 to 8"):
        Exemplar(num_classes=9).build_objective(TinyConv(RGB), DataInfo(RGB, 8))


def test_deepcluster_clusters_anew_before_each_epoch_and_forgets_the_heads_momentum():
    objective = build(FAMILIES["deepcluster"])
    assert isinstance(objective, ClusterClassification)
    contexts: list[object] = []
    original = objective.on_epoch_start
    assignments: list[Tensor] = []
    momenta: list[tuple[bool, bool]] = []

    def watched(context) -> None:
        original(context)
        contexts.append(context)
        assignments.append(objective.clusters.clone())
        state = context.optimizers["main"].state
        momenta.append((objective.head.weight in state, next(objective.backbone.parameters()) in state))

    objective.on_epoch_start = watched
    train(objective, FAMILIES["deepcluster"])
    assert len(contexts) == 3
    assert momenta == [(False, False), (False, True), (False, True)]
    assert not torch.equal(assignments[0], assignments[1])
    assert all(len(clusters.unique()) > 1 for clusters in assignments)


def test_deepcluster_sees_clusters_of_all_sizes_equally_often():
    objective = DeepCluster(num_clusters=2).build_objective(TinyConv(RGB), DataInfo(RGB, 4000))
    assert isinstance(objective, ClusterClassification)
    objective.clusters[:400] = 1

    class Context:
        generator = staticmethod(make_generator_for)

    counts = objective.clusters[objective.epoch_indices(Context())].bincount()  # pyright: ignore[reportArgumentType]
    assert counts.sum() == 4000
    assert abs(int(counts[0]) - 2000) < 160  # five standard deviations


def test_k_means_finds_clusters_that_lie_apart():
    labels = torch.arange(30) % 3
    points = 10 * torch.eye(3)[labels] + torch.randn(30, 3, generator=make_generator(0))
    found = [k_means(points, 3, make_generator(seed)) for seed in range(5)]
    assert any(len(set(zip(clusters.tolist(), labels.tolist(), strict=True))) == 3 for clusters in found)


# -------------------------------------------------------------------------------------------------------------------- GAN


def test_each_phase_of_the_gan_moves_its_own_part_alone():
    objective = build(FAMILIES["gan"])
    parts = {"discriminator": ["backbone", "head"], "generator": ["generator"]}
    moved: list[tuple[int, str, set[str]]] = []
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}

    def watched(phase: str, context: TrainContext) -> None:
        names = {name.split(".")[0] for name, p in objective.named_parameters() if not torch.equal(p, before[name])}
        moved.append((context.step, phase, names))
        before.update({name: p.detach().clone() for name, p in objective.named_parameters()})

    objective.on_after_step = watched
    train(objective, FAMILIES["gan"])
    assert moved == [(step, phase, set(parts[phase])) for step in range(9) for phase in ("discriminator", "generator")]


# ----------------------------------------------------------------------------------------------------------------- SimCLR


def test_nt_xent_is_that_of_the_paper():
    objective = build(FAMILIES["simclr"]).eval()
    assert isinstance(objective, NTXent)
    views = views_of(objective, first_batch(5))
    output = objective(views, step_of(objective))
    z = objective.projector(objective.backbone.embed(views["images"])).tolist()
    total = right = 0.0
    for i in range(10):  # equation 1, pair by pair
        partner = (i + 5) % 10
        similar = {j: cosine(z[i], z[j]) / objective.options.temperature for j in range(10) if j != i}
        total += math.log(sum(math.exp(value) for value in similar.values())) - similar[partner]
        right += max(similar, key=lambda j: similar[j]) == partner
    assert float(output.loss.detach()) == pytest.approx(total / 10, rel=1e-5)
    assert float(output.metrics["top1"].total) == pytest.approx(100 * right)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


# ------------------------------------------------------------------------------------------------------------- BYOL and DINO


def test_the_byol_teacher_is_the_moving_average_of_parameters_and_batchnorm_statistics():
    objective = build(FAMILIES["byol"])
    assert isinstance(objective, Bootstrap)
    students = {"backbone": objective.backbone, "head": objective.projector}
    expected = copy.deepcopy(objective.teacher.state_dict())

    seen: list[float] = []
    original = objective.on_after_step

    def watched(phase: str, context) -> None:
        original(phase, context)
        momentum = context.schedule["momentum"]
        seen.append(momentum)
        for part, student in students.items():
            for name, value in student.state_dict().items():
                key = f"{part}.{name}"
                expected[key] = momentum * expected[key] + (1 - momentum) * value if value.is_floating_point() else value.clone()

    objective.on_after_step = watched
    train(objective, FAMILIES["byol"])
    assert len(seen) == 9
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(0.9)
    assert "backbone.stem.1.running_var" in expected
    for name, value in objective.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert int(objective.teacher.state_dict()["backbone.stem.1.num_batches_tracked"]) == 2 * 9  # counters are copied
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_a_teacher_in_training_keeps_its_eval_mode():
    objective = build(FAMILIES["byol"]).train()
    assert isinstance(objective, Bootstrap)
    assert objective.backbone.training
    assert not any(module.training for module in objective.teacher.modules())


def test_dino_exports_its_teacher():
    objective = build(FAMILIES["dino"])
    assert isinstance(objective, SelfDistillation)
    train(objective, FAMILIES["dino"])
    exported = objective.exported_backbone()
    assert exported is objective.teacher.backbone
    images = first_batch().images
    assert not torch.allclose(exported.eval().embed(images), objective.backbone.eval().embed(images))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_dino_centre_moves_only_in_training_and_in_float32(autocast: torch.dtype | None):
    objective = build(FAMILIES["dino"])
    assert isinstance(objective, SelfDistillation)
    views = views_of(objective, first_batch())
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        objective.eval()(views, step_of(objective))
        assert not objective.center.any()
        objective.train()(views, step_of(objective))
        expected = 0.1 * objective.teacher(views["global"]).float().mean(dim=0)
    assert objective.center.dtype == torch.float32
    torch.testing.assert_close(objective.center, expected)


# -------------------------------------------------------------------------------------------------------------------- MAE


def test_masked_encode_of_all_patches_is_the_deepest_layer():
    with global_seed(0):
        backbone = TinyTokens(RGB).eval()
    images = first_batch(2).images
    keep = torch.arange(16).flip(0).expand(2, -1)
    torch.testing.assert_close(backbone.masked_encode(images, keep), backbone(images, ["block"])["block"].flip(1))


def test_mae_asks_for_what_a_convolutional_network_lacks():
    assert not MAE.requires <= TinyConv.capabilities
    with pytest.raises(BackboneError, match="TinyConv has no masked_encode; use a backbone with the capability 'masked_encode'"):
        TinyConv(RGB).masked_encode(first_batch().images, torch.zeros(8, 4, dtype=torch.int64))


def test_mae_sees_only_what_it_keeps():
    objective = build(FAMILIES["mae"]).eval()
    assert isinstance(objective, MaskedAutoencoding)
    views = views_of(objective, first_batch())
    assert torch.equal(torch.cat([views["keep"], views["masked"]], dim=1).sort(dim=1).values, torch.arange(16).expand(8, -1))
    images = views["images"].float().div(255).requires_grad_()
    tokens = objective.backbone.masked_encode(images, views["keep"])
    tokens.square().sum().backward()
    assert images.grad is not None
    touched = nn.functional.avg_pool2d(images.grad.abs().sum(dim=1, keepdim=True), 4).flatten(1) > 0  # (N, L)
    assert torch.equal(touched.nonzero()[:, 1].reshape(8, 4), views["keep"].sort(dim=1).values)


# ---------------------------------------------------------------------------------------------------------------- learning


def test_a_miniature_learns():
    """Images with a bright upper half: rotation becomes obvious."""
    pixels = torch.zeros(32, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, :8] = torch.randint(128, 256, (32, 3, 8, 16), generator=make_generator(0), dtype=torch.uint8)
    images = TinyImages(pixels)
    with global_seed(0):
        objective = Rotation().build_objective(TinyConv(images.image, dropout=0.0), DataInfo(images.image, len(images)))
    loader = Loader(images, batch_size=8, device=CPU)
    training = TrainingOptions(epochs=15, batch_size=8, optimizer=SGD(lr=0.1, weight_decay=0.0))
    assert fit(objective, loader, loader, training, RunContext(stage="pretrain", seed=0, device=CPU)).heldout["top1"] > 90
