from typing import Any

import pytest
import torch
from torch import Tensor

from sslkit import Augment
from sslkit.contract.backbone import Backbone
from sslkit.evaluators import feature_cache as module
from sslkit.evaluators.classifier import build_heads
from sslkit.evaluators.feature_cache import FrozenTrunk
from sslkit.evaluators.heads import HeadKind
from tests.contract.miniatures.backbones import TinyTokens
from tests.evaluators.labeled import context, images_through, labeled, network, training

DATA = labeled()  # 30 training images, 15 test images
FLIP = Augment(horizontal_flip=True)
LAYERS = {"stem": 4, "body": 8}


def trunk(
    subsets: list[list[int] | None], *, kind: HeadKind = "linear", backbone: Backbone | None = None, size: int | None = None, **options: Any
) -> FrozenTrunk:
    backbone = network() if backbone is None else backbone
    surroundings = context(autocast=options.pop("autocast", None))
    layers = ("block",) if "block" in backbone.layer_names else tuple(LAYERS)
    heads = build_heads(kind, layers, backbone, DATA, surroundings)
    chosen = [None if subset is None else torch.tensor(subset) for subset in subsets]
    return FrozenTrunk(backbone, heads, DATA, training(**options), surroundings, subsets=chosen, images_per_epoch=size)


def rows(found: Any) -> int | None:
    return None if found is None else found.num_rows


# ---------------------------------------------------------------------------------------------------------- what is worth it


@pytest.mark.parametrize(
    ("epochs", "size", "augment", "expected"),
    [
        (1, None, Augment(), None),  # every image once: nothing to spare
        (2, None, Augment(), 30),
        (2, None, FLIP, None),  # 60 copies, 60 images drawn
        (3, None, FLIP, 60),
        (3, 10, FLIP, None),
        (2, None, Augment(crop_padding=4), None),
    ],
)
def test_a_fit_keeps_features_if_it_draws_more_images_than_there_are_copies(
    epochs: int, size: int | None, augment: Augment, expected: int | None
):
    found = trunk([None], epochs=epochs, size=size, augment=augment)
    assert rows(found.train(None)) == expected
    assert found.test is None  # they are measured once


def test_test_images_are_kept_where_several_fits_share_them():
    assert rows(trunk([[0, 1], [3]], epochs=1).test) == 15


def test_one_bank_serves_all_fits_whose_subsets_overlap():
    one, two = [0, 1, 2], [0, 1, 2, 3]
    found = trunk([one, two], augment=FLIP)
    assert rows(found.train(torch.tensor(one))) == 8
    assert found.train(torch.tensor(one)) is found.train(torch.tensor(two))


def test_subsets_apart_have_a_bank_each():
    one, two = [0, 1, 2], [5, 6]
    found = trunk([one, two], augment=FLIP)
    assert [rows(found.train(torch.tensor(subset))) for subset in (one, two)] == [6, 4]


def test_a_large_subset_does_not_keep_a_small_one_from_its_own_bank():
    small, large = [0, 1, 2], list(range(3, 23))
    found = trunk([small, large], augment=FLIP, epochs=1)  # 40 copies of the large one, and 30 images drawn
    assert [rows(found.train(torch.tensor(subset))) for subset in (small, large)] == [6, None]


def test_no_more_is_kept_than_the_budget_allows(monkeypatch: pytest.MonkeyPatch):
    row_bytes = 4 * (4 + 8)
    for budget, expected in ((15 + 6, (15, 6)), (15 + 5, (15, None)), (15, (15, None)), (14, (None, 6)), (5, (None, None))):
        monkeypatch.setattr(module, "BUDGET", budget * row_bytes)
        found = trunk([[0, 1, 2], [3, 4, 5]], augment=FLIP)
        assert (rows(found.test), rows(found.train(torch.tensor([0, 1, 2])))) == expected


# ------------------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])
@pytest.mark.parametrize("backbone", [network(), network(TinyTokens)], ids=["map", "tokens"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_features_are_kept_as_the_trained_part_of_each_head_takes_them(kind: HeadKind, backbone: Backbone, autocast: torch.dtype | None):
    backbone.train()
    features = trunk([None], kind=kind, backbone=backbone, autocast=autocast).train(None).features(torch.arange(30))
    assert backbone.training
    layers = list(features)
    heads = build_heads(kind, layers, backbone, DATA, context())
    backbone.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast is not None):
        plain = backbone(DATA.train.read(range(30)), layers)
        for layer in layers:
            expected: Tensor = heads[layer].condense(plain[layer])
            assert features[layer].dtype == expected.dtype
            assert not features[layer].requires_grad
            tolerance = 1e-5 if autocast is None else 0.02
            torch.testing.assert_close(features[layer], expected, rtol=tolerance, atol=tolerance)


def test_the_network_is_given_each_copy_once():
    backbone = network()
    found = trunk([[0, 1, 2], [0, 1, 2, 3]], augment=FLIP, backbone=backbone)
    sizes = images_through(backbone)
    train = found.train(torch.tensor([0, 1, 2]))
    assert sizes == []
    for _ in range(2):
        found.test.features(torch.tensor([3]))
        train.features(torch.tensor([3]))
    assert sum(sizes) == 15 + 4 * 2
