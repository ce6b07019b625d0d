import pytest

from sslkit.report.formatting import duration, number, signed


def test_figures_have_two_digits():
    assert [number(value) for value in (93.456, 0.0, None, float("nan"))] == ["93.46", "0.00", "", "nan"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.004217, "0.0042"),
        (3.2e-7, "3.2e-07"),
        (0.0999, "0.1"),
        (0.1, "0.10"),
        (-0.02, "-0.02"),
        (-0.004, "-0.004"),
        (1e10, "10000000000.00"),
    ],
)
def test_a_small_loss_is_not_nothing(value: float, text: str):
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
