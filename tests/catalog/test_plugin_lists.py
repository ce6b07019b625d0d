import pytest

from sslkit.catalog.plugin_lists import Entry, PluginLists

FLIPS = Entry("flips", "sslkit-flips")


def lists(**environ: str) -> PluginLists:
    return PluginLists.of({f"SSLKIT_{name.upper()}_PLUGINS": value for name, value in environ.items()})


def test_without_variables_everything_may_be_imported():
    assert PluginLists.of({}) == PluginLists()
    assert PluginLists().allows(FLIPS, own=False)
    assert not PluginLists().disables(FLIPS)
    assert PluginLists().notes([FLIPS]) == ()


@pytest.mark.parametrize("item", ["flips", " flips ", "x,flips", "sslkit-flips:flips", "SSLKIT_flips:flips", "sslkit.flips:flips"])
def test_an_item_is_a_name_or_a_distribution_and_a_name(item: str):
    assert lists(allow=item).allows(FLIPS, own=False)
    assert lists(disable=item).disables(FLIPS)


@pytest.mark.parametrize(
    "item", ["", ",", "flip", "Flips", "sslkit-flips", "sslkit-flips:", "sslkit-other:flips", "flips:sslkit-flips", "*"]
)
def test_nothing_else_is_meant(item: str):
    assert not lists(allow=item).allows(FLIPS, own=False)
    assert not lists(disable=item).disables(FLIPS)
    assert lists(allow=item).allows(FLIPS, own=True)
