from typing import Any

import pytest
import torch
from torch import Generator, nn

from sslkit import SGD, Backbone, Batch, ConvProbe, Evaluator, LinearProbe, MLPProbe, OptionError, SemiSupervised, Step
from sslkit.evaluators.classifier import Classifier, FrozenFeatures, build_heads
from sslkit.storage.identity import state_hash
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.evaluators.labeled import arrays, changed, context, copy_of, labeled, network

DATA = labeled()
PROBES = [LinearProbe, MLPProbe, ConvProbe]
LAYERS = {TinyConv: ("stem", "body"), TinyTokens: ("patches", "block")}


def probe(kind: Any, layers: tuple[str, ...], **options: Any) -> Any:
    return kind(layers=layers, **{"epochs": 2, "batch_size": 8, **options})


def on_meta(kind: type[Backbone] = TinyConv) -> Backbone:
    image = arrays().image()
    with torch.device("meta"):
        return kind(image)


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("backbone_kind", LAYERS)
def test_a_probe_measures_every_layer_and_leaves_the_backbone_alone(kind: Any, backbone_kind: type[Backbone]):
    layers = LAYERS[backbone_kind]
    backbone = network(backbone_kind)
    before = state_hash(backbone)
    evaluation = probe(kind, layers).evaluate(backbone, DATA, context())
    assert state_hash(backbone) == before
    assert set(evaluation.metrics) == {f"{layer}.top1" for layer in layers}
    assert all(0 <= value <= 100 for value in evaluation.metrics.values())
    assert set(evaluation.heads) == set(layers)
    assert evaluation.backbone is None
    assert (kind.exports_backbone, kind.from_scratch) == (False, False)
    assert probe(kind, layers).frozen


@pytest.mark.parametrize("kind", PROBES)
def test_layers_on_one_forward_pass_equal_each_layer_alone(kind: Any):
    together = probe(kind, ("stem", "body")).evaluate(network(), DATA, context())
    for layer in ("stem", "body"):
        alone = probe(kind, (layer,)).evaluate(network(), DATA, context())
        assert alone.metrics == {f"{layer}.top1": together.metrics[f"{layer}.top1"]}
        assert changed(alone.heads[layer], copy_of(together.heads[layer])) == []


@pytest.mark.parametrize("kind", PROBES)
def test_probes_learn(kind: Any):
    metrics = probe(kind, ("stem",), epochs=10, optimizer=SGD(lr=0.3)).evaluate(network(), DATA, context()).metrics
    assert metrics["stem.top1"] > 80


def test_a_probe_repeats_itself_bit_for_bit_and_follows_the_seed():
    one, two, other = (probe(MLPProbe, ("body",)).evaluate(network(), DATA, context(seed=seed)).heads["body"] for seed in (3, 3, 4))
    assert changed(one, copy_of(two)) == []
    assert changed(one, copy_of(other)) != []


def widths(head: nn.Module) -> list[int]:
    return [layer.weight.shape[0] for layer in head.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (LinearProbe, {}, [3]),
        (MLPProbe, {}, [60, 60, 3]),
        (MLPProbe, {"hidden": 7}, [7, 7, 3]),
        (ConvProbe, {}, [8, 8, 8, 3]),
        (ConvProbe, {"width": 5}, [5, 5, 5, 3]),
    ],
)
def test_the_width_of_the_heads(kind: Any, options: dict, expected: list[int]):
    heads = probe(kind, ("body",), epochs=1, **options).evaluate(network(), DATA, context()).heads
    assert widths(heads["body"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_its_forward_pass_is_one_graph_that_holds_no_weights(autocast: torch.dtype | None):
    """What is compiled for the first network must serve the second as well."""
    for seed in (0, 1):
        backbone = network(seed=seed)
        heads = build_heads("linear", ("stem", "body"), backbone, DATA, context())
        classifier = Classifier(backbone, heads, DATA, frozen=FrozenFeatures()).train()
        compiled = torch.compile(classifier, backend="aot_eager", fullgraph=True)
        views = classifier.make_views(Batch(DATA.train.read(range(9)), torch.arange(9)), Generator(), train=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast is not None):
            outputs = [one(views, Step("main")) for one in (classifier, compiled)]
        gradients = []
        for output in outputs:
            classifier.zero_grad()
            output.loss.backward()
            gradients.append([parameter.grad for parameter in classifier.heads.parameters()])
        # What is compiled takes its backward pass under the autocast of the forward pass, whatever that switched off within.
        tolerance = {} if autocast is None else {"rtol": 0.05, "atol": 1e-3}
        torch.testing.assert_close(gradients[0], gradients[1], **tolerance)
        for layer in heads:
            torch.testing.assert_close(outputs[1].predictions[layer].logits, outputs[0].predictions[layer].logits)


@pytest.mark.parametrize("kind", PROBES)
def test_what_cannot_work_is_refused_before_anything_is_computed(kind: Any):
    def check(layers: tuple[str, ...] = ("stem",), **options: Any) -> None:
        probe(kind, layers, **options).check(on_meta(), DATA)

    check(layers=("stem", "body"), batch_size=30)
    with pytest.raises(OptionError, match=r"^layers: layer does not exist in this backbone; found 'conv2'; allowed: stem, body$"):
        check(layers=("stem", "conv2"))
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(30 images\); found 31; allowed: 1 to 30$"):
        check(batch_size=31)
    if kind is MLPProbe:
        with pytest.raises(
            OptionError, match=r"^accumulate_batches: leaves a head with BatchNorm one image at a time; found 8; allowed: at most 4$"
        ):
            check(batch_size=8, accumulate_batches=8)


@pytest.mark.parametrize(("kind", "option"), [(MLPProbe, "hidden"), (ConvProbe, "width")])
@pytest.mark.parametrize("value", [0, -3])
def test_a_width_must_be_positive(kind: Any, option: str, value: int):
    with pytest.raises(OptionError, match=rf"^{option}: must be positive; found {value}; allowed: 1 or more$"):
        probe(kind, ("stem",), **{option: value})


@pytest.mark.parametrize("kind", [*PROBES, SemiSupervised])
def test_the_options_of_training_are_checked_too(kind: Any):
    options: dict[str, Any] = {"labels_per_class": (1,)} if kind is SemiSupervised else {}
    assert issubclass(kind, Evaluator)
    with pytest.raises(OptionError, match=r"^epochs: must be positive; found 0; allowed: 1 or more$"):
        kind(layers=("stem",), epochs=0, **options)
