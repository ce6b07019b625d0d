from typing import Any

import pytest
import torch

from sslkit import FeatureInfo, FineTune, OptionError, Supervised
from tests.evaluators.labeled import changed, context, copy_of, labeled, network

DATA = labeled()


def run(kind: Any = FineTune, **options: Any) -> Any:
    return kind(**{"epochs": 2, "batch_size": 8, **options})


def test_it_trains_the_backbone_and_hands_it_over():
    backbone = network()
    before = copy_of(backbone)
    evaluation = run().evaluate(backbone, DATA, context())
    assert evaluation.backbone is backbone
    assert set(changed(backbone, before)) == set(before)
    assert set(evaluation.heads) == {"body"}
    assert not run().frozen


def test_its_figure_is_that_of_the_network_it_hands_over():
    evaluation = run().evaluate(network(), DATA, context())
    with torch.no_grad():
        logits = evaluation.heads["body"].eval()(evaluation.backbone.eval()(DATA.test.read(range(15)), ["body"])["body"])
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(logits, DATA.test.labels, strict=True))
    assert set(evaluation.metrics) == {"body.top1"}
    assert evaluation.metrics["body.top1"] == pytest.approx(100 * correct / 15, rel=1e-6)


def test_layers_above_the_head_are_neither_used_nor_changed():
    backbone = network()
    before = copy_of(backbone)
    evaluation = run(layer="stem").evaluate(backbone, DATA, context())
    assert set(evaluation.metrics) == {"stem.top1"}
    assert set(changed(backbone, before)) == {name for name in before if name.startswith("stem.")}


@pytest.mark.parametrize("head", ["linear", "mlp", "conv"])
def test_any_head_learns(head: str):
    assert run(head=head, epochs=8).evaluate(network(dropout=0.0), DATA, context()).metrics["body.top1"] > 60


def test_the_supervised_baseline_is_the_same_training_from_scratch():
    assert (Supervised.from_scratch, FineTune.from_scratch) == (True, False)
    assert Supervised.exports_backbone
    assert FineTune.exports_backbone
    one, two = (run(kind).evaluate(network(), DATA, context()) for kind in (FineTune, Supervised))
    assert one.metrics == two.metrics
    assert changed(one.backbone, copy_of(two.backbone)) == []


def test_it_follows_the_seed():
    one, two = (run().evaluate(network(), DATA, context(seed=seed)).backbone for seed in (3, 4))
    assert changed(one, copy_of(two)) != []


def test_what_cannot_work_is_refused_before_anything_is_computed():
    backbone = network()
    run(layer="stem", head="conv").check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^layer: layer does not exist in this backbone; found 'stern'; allowed: stem, body$"):
        run(layer="stern").check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(30 images\); found 64; allowed: 1 to 30$"):
        run(batch_size=64).check(backbone, DATA)
    backbone.feature_info = (*backbone.feature_info, FeatureInfo("logits", 8, 1, "vector"))
    run(head="mlp").check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^layer: a convolution needs a map or tokens, and this layer is a vector; found 'logits'$"):
        run(head="conv").check(backbone, DATA)
