import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sslkit.evaluators.knn as module
from sslkit import KNN, DataError, LabeledData, OptionError
from sslkit.evaluators.knn import vote
from sslkit.storage.identity import state_hash
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.evaluators.labeled import arrays, context, labeled, network

DATA = labeled()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive_votes(bank: Tensor, labels: list[int], query: Tensor, num_classes: int, k: int, temperature: float) -> list[float]:
    """One query at a time: sort all similarities, let the first k vote, as parts of one."""
    similarity = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    votes = [0.0] * num_classes
    for index in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
        votes[labels[index]] += math.exp(similarity[index] / temperature)
    return [value / sum(votes) for value in votes]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 1.0), (23, 0.2)])
@pytest.mark.parametrize("block", [23, 8, 4, 1, 100], ids="blocks of {}".format)
def test_votes_equal_those_of_a_loop_over_queries(k: int, temperature: float, block: int, monkeypatch: pytest.MonkeyPatch):
    """Blocks that hold the bank whole, more of it than k, less of it; and a last one that is smaller."""
    monkeypatch.setattr(module, "_NUM_QUERIES", 3)
    monkeypatch.setattr(module, "_NUM_BANK", block)
    bank, queries, labels = random(23, 6, seed=0), random(7, 6, seed=1), torch.arange(23) % 4
    votes = vote(bank, labels, queries, 4, k=k, temperature=temperature)
    for query, found in zip(queries, votes / votes.sum(dim=1, keepdim=True), strict=True):
        assert found.tolist() == pytest.approx(naive_votes(bank, labels.tolist(), query, 4, k, temperature), abs=1e-5)


@pytest.mark.parametrize("block", [3, 4, 100])
def test_of_equally_near_images_each_votes_once(block: int, monkeypatch: pytest.MonkeyPatch):
    """Features that have collapsed: every image of the bank is as near as any other."""
    monkeypatch.setattr(module, "_NUM_BANK", block)
    votes = vote(torch.ones(10, 4), torch.arange(10), torch.ones(2, 4), 10, k=7, temperature=0.07)
    assert votes.sort(dim=1).values.tolist() == [[0.0] * 3 + [1.0] * 7] * 2


def test_ties_within_the_neighbours_are_all_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_NUM_BANK", 2)
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    votes = vote(bank, torch.tensor([0, 1, 2, 3, 2]), torch.tensor([[1.0, 0.0]]), 4, k=3, temperature=0.07)
    assert votes.tolist() == [[0.0, 1.0, 2.0, 0.0]]


def test_the_stage_keeps_its_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        vote(random(5, 4, seed=0), torch.arange(5), random(2, 4, seed=1), 5, k=2, temperature=0.07)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_the_direction_of_features_counts():
    bank, queries, labels = random(23, 6, seed=0), random(7, 6, seed=1), torch.arange(23) % 4
    scaled = vote(bank * torch.linspace(0.1, 9, 23)[:, None], labels, queries * 100, 4, k=5, temperature=0.07)
    assert torch.allclose(scaled, vote(bank, labels, queries, 4, k=5, temperature=0.07), rtol=1e-4)


def test_near_neighbours_outvote_many_far_ones():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    votes = vote(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.1]]), 2, k=3, temperature=0.07)
    assert votes.argmax().item() == 0
    assert vote(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.1]]), 2, k=3, temperature=10.0).argmax().item() == 1


@pytest.mark.parametrize("temperature", [0.01, 1e-3, 1e-6])
def test_no_temperature_is_too_small(temperature: float):
    """exp(1 / 0.01) overflows float32: all classes would have infinitely many votes, and the first would win."""
    bank, labels = torch.tensor([[1.0, 0.3], [1.0, 0.0], [1.0, 0.05]]), torch.tensor([0, 1, 2])
    votes = vote(bank, labels, torch.tensor([[1.0, 0.06], [-1.0, 0.0]]), 3, k=3, temperature=temperature)
    assert votes.isfinite().all()
    assert votes.argmax(dim=1).tolist() == [2, 0]  # the nearest; seen from behind, that is the one farthest off the axis


def naive_top1(backbone: Any, layer: str, **options: Any) -> float:
    with torch.no_grad():
        bank, queries = (backbone.eval().embed(images.read(range(len(images))), layer) for images in (DATA.train, DATA.test))
    labels = DATA.train.labels.tolist()
    votes = [naive_votes(bank, labels, query, 3, **options) for query in queries]
    correct = sum(row.index(max(row)) == int(label) for row, label in zip(votes, DATA.test.labels, strict=True))
    return 100 * correct / len(votes)


@pytest.mark.parametrize(("kind", "layers"), [(TinyConv, ("body", "stem")), (TinyTokens, ("block",))])
def test_it_measures_pooled_features_of_every_layer(kind: Any, layers: tuple[str, ...]):
    backbone = network(kind)
    before = state_hash(backbone)
    evaluation = KNN(layers=layers, k=4, temperature=0.1, batch_size=8).evaluate(backbone, DATA, context())
    assert evaluation.metrics == {f"{layer}.top1": pytest.approx(naive_top1(backbone, layer, k=4, temperature=0.1)) for layer in layers}
    assert state_hash(backbone) == before
    assert (evaluation.backbone, evaluation.heads) == (None, {})
    assert KNN(layers=layers).frozen


def test_features_are_taken_in_eval_mode_whatever_the_batches():
    backbone = network(dropout=0.9)
    backbone.train()
    metrics = [KNN(layers=("body",), k=3, batch_size=size).evaluate(backbone, DATA, context()).metrics for size in (4, 30)]
    assert metrics[0] == metrics[1] == KNN(layers=("body",), k=3).evaluate(network(dropout=0.0), DATA, context()).metrics


def test_it_tells_these_classes_apart():
    assert KNN(layers=("stem",), k=5).evaluate(network(), DATA, context()).metrics["stem.top1"] > 90


@pytest.mark.parametrize(("option", "value"), [("k", 0), ("temperature", -0.1), ("batch_size", 0)])
def test_options_that_make_no_sense_are_refused(option: str, value: float):
    with pytest.raises(OptionError, match=f"^{option}: must be positive; found {value}$"):
        KNN(layers=("stem",), **{option: value})


def test_what_does_not_fit_is_refused_before_anything_is_computed():
    backbone = network()
    KNN(layers=("stem", "body"), k=30).check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^k: is larger than the data \(30 images\); found 31; allowed: 1 to 30$"):
        KNN(layers=("stem",), k=31).check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^layers: layer does not exist in this backbone; found 'conv2'; allowed: stem, body$"):
        KNN(layers=("conv2",)).check(backbone, DATA)


def test_data_without_labels_is_refused():
    data = LabeledData(arrays().load("pretrain"), DATA.test)
    with pytest.raises(DataError, match=r"^nearest neighbours need labels on training and test images$"):
        KNN(layers=("stem",)).evaluate(network(), data, context())
