import pytest

from sslkit.recipe.stages import StageKey, labels, parse_key


@pytest.mark.parametrize(
    ("key", "parsed", "series"),
    [
        ("probe", StageKey("", "probe"), "probe"),
        ("blocks3/probe", StageKey("blocks3", "probe"), "blocks3/probe"),
        ("gamma=0.2,seed=1/probe", StageKey("gamma=0.2,seed=1", "probe"), "gamma=0.2,seed=1/probe"),
        ("object/epoch=0", StageKey("", "object", 0), "object"),
        ("stages.pretrain.epochs=2/object/epoch=10", StageKey("stages.pretrain.epochs=2", "object", 10), "stages.pretrain.epochs=2/object"),
        ("epoch=3", StageKey("", "epoch=3"), "epoch=3"),  # a name, for it stands alone
        ("epoch=x/probe", StageKey("epoch=x", "probe"), "epoch=x/probe"),
    ],
)
def test_a_key_is_taken_apart_and_its_series_is_all_but_the_epoch(key: str, parsed: StageKey, series: str):
    assert parse_key(key) == parsed
    assert parsed.series == series


@pytest.mark.parametrize(
    "expected",
    [
        {"a/probe": "a", "b/probe": "b"},
        {"a/object/epoch=1": "a", "a/object/epoch=2": "a"},
        {"a/probe": "a/probe", "a/knn": "a/knn"},  # different stages keep their names
        {"probe": "probe"},
        {"a/probe": "a", "probe": "probe"},
        {},
    ],
)
def test_variants_are_distinguished_by_their_names(expected: dict[str, str]):
    assert labels(expected) == expected
