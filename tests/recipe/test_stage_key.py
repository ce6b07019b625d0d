import pytest

from sslkit.recipe.stages import StageKey, labels, parse_key


@pytest.mark.parametrize(
    ("key", "parsed"),
    [
        ("probe", StageKey("", "probe")),
        ("blocks3/probe", StageKey("blocks3", "probe")),
        ("gamma=0.2,seed=1/probe", StageKey("gamma=0.2,seed=1", "probe")),
        ("object/epoch=0", StageKey("", "object", 0)),
        ("stages.pretrain.epochs=2/object/epoch=10", StageKey("stages.pretrain.epochs=2", "object", 10)),
        ("epoch=3", StageKey("", "epoch=3")),  # a name, for it stands alone
        ("epoch=x/probe", StageKey("epoch=x", "probe")),
    ],
)
def test_a_key_is_taken_apart(key: str, parsed: StageKey):
    assert parse_key(key) == parsed


def test_the_series_is_the_key_without_the_epoch():
    assert parse_key("blocks3/object/epoch=10").series == "blocks3/object"
    assert parse_key("object/epoch=10").series == "object"
    assert parse_key("probe").series == "probe"


def test_variants_are_told_apart_by_their_names():
    assert labels(["a/probe", "b/probe"]) == {"a/probe": "a", "b/probe": "b"}
    assert labels(["a/object/epoch=1", "a/object/epoch=2"]) == {"a/object/epoch=1": "a", "a/object/epoch=2": "a"}


def test_different_stages_keep_their_names():
    assert labels(["a/probe", "a/knn"]) == {"a/probe": "a/probe", "a/knn": "a/knn"}
    assert labels(["probe"]) == {"probe": "probe"}
    assert labels(["a/probe", "probe"]) == {"a/probe": "a", "probe": "probe"}
    assert labels([]) == {}
