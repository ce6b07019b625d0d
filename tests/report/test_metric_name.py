import pytest

from sslkit.report.metric_name import MetricName, better, parse_metric


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("conv2.top1", MetricName("conv2", "top1")),
        ("conv2.k20.top1", MetricName("conv2", "top1", 20)),
        ("conv2.k20.top1_std", MetricName("conv2", "top1_std", 20)),
        ("blocks.3.k1.top1", MetricName("blocks.3", "top1", 1)),
        ("k20.top1", MetricName("k20", "top1")),  # a layer of that name
        ("conv2.rankme", MetricName("conv2", "rankme")),
        ("pretext_top1", MetricName("", "pretext_top1")),
    ],
)
def test_a_name_is_taken_apart(name: str, parsed: MetricName):
    assert parse_metric(name) == parsed


@pytest.mark.parametrize("name", ["conv2.top1", "conv2.k20.top1", "pretext_top1", "conv2.rankme"])
def test_more_is_better(name: str):
    assert better(name) == "higher"


@pytest.mark.parametrize("name", ["pretext_loss", "loss", "pretext_generator_loss"])
def test_less_is_better(name: str):
    assert better(name) == "lower"


@pytest.mark.parametrize("name", ["conv2.alpha_req", "conv2.k20.top1_std", "pretext_entropy", "loss_scale"])
def test_neither_is_better(name: str):
    assert better(name) is None
