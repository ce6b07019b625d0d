import pytest

from sslkit.report.pictures.spread import spread


@pytest.mark.parametrize(
    ("num_items", "num", "chosen"),
    [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (5, 3, [0, 2, 4]), (10, 4, [0, 3, 6, 9]), (7, 1, [0]), (7, 0, [])],
)
def test_choices_reach_from_end_to_end(num_items: int, num: int, chosen: list[int]):
    assert spread(range(num_items), num) == chosen


def test_no_choice_is_made_twice():
    for num_items in range(2, 40):
        for num in range(1, num_items + 1):
            chosen = spread(range(num_items), num)
            assert len(set(chosen)) == num
            assert chosen == sorted(chosen)
