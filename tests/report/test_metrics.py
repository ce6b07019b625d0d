import pytest

from sslkit.report.metrics import MetricName, better, duration, number, parse_metric, signed


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


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("higher", ["conv2.top1", "conv2.k20.top1", "pretext_top1", "conv2.rankme"]),
        ("lower", ["pretext_loss", "loss", "pretext_generator_loss"]),
        (None, ["conv2.alpha_req", "conv2.k20.top1_std", "pretext_entropy", "loss_scale"]),
    ],
)
def test_which_way_is_better(way: str | None, names: list[str]):
    assert [better(name) for name in names] == [way] * len(names)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (93.456, "93.46"),
        (0.0, "0.00"),
        (None, ""),
        (float("nan"), "nan"),
        (0.004217, "0.0042"),  # a small loss is not nothing
        (3.2e-7, "3.2e-07"),
        (0.0999, "0.1"),
        (0.1, "0.10"),
        (-0.02, "-0.02"),
        (-0.004, "-0.004"),
        (1e10, "10000000000.00"),
    ],
)
def test_metrics_have_two_digits(value: float | None, text: str):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "+1.23"), (-1.235, "-1.24"), (0.0, "+0.00"), (-0.001, "+0.00"), (-0.0, "+0.00"), (None, "")]
)
def test_differences_have_a_sign(value: float | None, text: str):
    assert signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.0, "59.0 s"), (60.0, "1 min 00 s"), (3599.9, "1 h 00 min"), (7384, "2 h 03 min")]
)
def test_times(seconds: float, text: str):
    assert duration(seconds) == text
