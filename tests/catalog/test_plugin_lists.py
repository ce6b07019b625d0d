"""``SSLKIT_ALLOW_PLUGINS`` and ``SSLKIT_DISABLE_PLUGINS``: which entry points are imported."""

import pytest

from sslkit import load_catalog
from tests.catalog.plugin_site import GOOD, Site


def state(name: str = "flips") -> str:
    return next(plugin.state for plugin in load_catalog().plugins if plugin.name == name)


def test_without_variables_everything_is_imported(site: Site):
    site.install("flips", GOOD)
    assert state() == "loaded"
    assert load_catalog().notes == ()


@pytest.mark.parametrize("item", ["flips", " flips ", "x,flips", "sslkit-flips:flips", "SSLKIT_flips:flips", "sslkit.flips:flips"])
def test_an_item_is_a_name_or_a_distribution_and_a_name(item: str, site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", GOOD)
    monkeypatch.setenv("SSLKIT_ALLOW_PLUGINS", item)
    assert state() == "loaded"
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", item)
    assert state() == "disabled"


@pytest.mark.parametrize(
    "item", ["", ",", "flip", "Flips", "sslkit-flips", "sslkit-flips:", "sslkit-other:flips", "flips:sslkit-flips", "*"]
)
def test_nothing_else_is_meant(item: str, site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", GOOD)
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", item)
    assert state() == "loaded"
    monkeypatch.setenv("SSLKIT_ALLOW_PLUGINS", item)
    assert state() == "not allowed"
    assert state("rotnet") == "loaded"  # one of sslkit's own
