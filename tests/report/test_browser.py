"""The report of a small real run in a real browser: nothing fails, nothing is fetched, everything is seen, tables can be sorted."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sslkit import load_recipe, run_recipe
from tests.recipes import changed

pytest.importorskip("selenium", reason="needs selenium: pip install -e '.[test]'")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1280, 900), (390, 844)

CHANGES = (
    "name=seen",
    "stages.pretrain.epochs=2",
    "stages.pretrain.snapshot_epochs=[0, 1, 2]",
    "stages.probe.evaluator.layers=['conv1', 'conv2', 'conv3']",
)
RECIPE = (
    changed(*CHANGES)
    + """
[stages.object]
weights = "pretrain@each"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 250 }

[stages.quality]
weights = "pretrain@each"
evaluator = { name = "feature_quality", layers = ["conv2"] }

[stages.few]
weights = "pretrain"
evaluator = { name = "semi_supervised", labels_per_class = [1, 5, 20], selection = "random", num_subsets = 2, images_per_epoch = 100, layers = ["conv2"], head = "linear", epochs = 1, batch_size = 50 }

[paper]
"probe.conv2.top1" = 91.16

[margins]
"deep over shallow" = ["probe.conv2.top1", "probe.conv1.top1"]
"""
)

# What a reader sees of each drawing, and how wide it is in its own window.
FIGURES = """
return [...document.querySelectorAll('figure')].map(figure => {
  const drawing = figure.querySelector('svg, img');
  const box = drawing.getBoundingClientRect();
  const inside = figure.getBoundingClientRect();
  return {
    title: figure.querySelector('figcaption strong').textContent,
    drawn: drawing.tagName === 'IMG' ? drawing.complete && drawing.naturalWidth > 0 : drawing.getBBox().width > 0,
    width: box.width, height: box.height, left: inside.left, right: inside.right,
    text: Math.min(...[...drawing.querySelectorAll('text')].map(text => text.getBoundingClientRect().height), 99),
  };
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    (folder / "seen.toml").write_text(RECIPE)
    run_recipe(load_recipe(folder / "seen.toml"), output=folder / "run")
    return folder / "run" / "report.html"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    assert BROWSER is not None
    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def open_page(chrome: Chrome, page: Path, size: tuple[int, int], scheme: str = "light") -> None:
    """Show the page in a window of this size, and forget what was logged before."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    for log in ("browser", "performance"):
        chrome.get_log(log)
    chrome.get(page.as_uri())


def requests_of(chrome: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]


def column(chrome: Chrome, table: str, number: int) -> list[str]:
    return [cell.text for cell in chrome.find_elements(By.CSS_SELECTOR, f"{table} tbody td:nth-child({number})")]


def style(chrome: Chrome, selector: str, name: str) -> Any:
    return chrome.execute_script(f"return getComputedStyle(document.querySelector({selector!r}))[{name!r}]")


def test_the_page_opens_without_an_error_and_fetches_nothing(chrome: Chrome, page: Path):
    open_page(chrome, page, DESKTOP)
    assert [url for url in requests_of(chrome) if not url.startswith("data:")] == [page.as_uri()]
    assert chrome.get_log("browser") == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_every_figure_is_seen_without_moving_the_page_sideways(size: tuple[int, int], chrome: Chrome, page: Path):
    open_page(chrome, page, size)
    figures = chrome.execute_script(FIGURES)
    titles = {"Accuracy by layer.", "Few labels.", "Accuracy during pretraining.", "Loss during pretraining.", "Attention maps."}
    assert titles <= {figure["title"] for figure in figures}
    for figure in figures:
        assert figure["drawn"], figure
        assert figure["width"] >= 200, figure
        assert figure["height"] >= 50, figure
        assert 0 <= figure["left"] <= figure["right"] <= size[0], figure
        assert figure["text"] >= 8, figure  # pixels: small, and can be read
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_tables_are_sorted_by_a_click_and_by_the_keyboard(chrome: Chrome, page: Path):
    open_page(chrome, page, DESKTOP)
    table = "#stages table"
    seconds = chrome.find_element(By.XPATH, "//section[@id='stages']//th[contains(., 'seconds')]")
    button = seconds.find_element(By.TAG_NAME, "button")

    button.click()
    assert seconds.get_attribute("aria-sort") == "descending"
    shown = [float(text) for text in column(chrome, table, 4)]
    assert shown == sorted(shown, reverse=True)

    button.send_keys(Keys.ENTER)
    assert seconds.get_attribute("aria-sort") == "ascending"
    shown = [float(text) for text in column(chrome, table, 4)]
    assert shown == sorted(shown)

    stage = chrome.find_element(By.XPATH, "//section[@id='stages']//th[contains(., 'stage')]")
    stage.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert (stage.get_attribute("aria-sort"), seconds.get_attribute("aria-sort")) == ("ascending", None)
    assert column(chrome, table, 1) == sorted(column(chrome, table, 1))


def test_empty_cells_come_last_either_way(chrome: Chrome, page: Path):
    """Nearest neighbours and feature quality do not train: they have no images a second."""
    open_page(chrome, page, DESKTOP)
    button = chrome.find_element(By.XPATH, "//section[@id='stages']//th[contains(., 'images/s')]/button")
    for _ in range(2):
        button.click()
        speeds = column(chrome, "#stages table", 5)
        assert speeds[-3:] == ["", "", ""]
        assert all(speeds[:-3])


def test_charts_follow_the_pages_colours(chrome: Chrome, page: Path):
    colours = []
    for scheme in ("light", "dark"):
        open_page(chrome, page, DESKTOP, scheme)
        ink, ground = style(chrome, "body", "color"), style(chrome, "body", "backgroundColor")
        assert style(chrome, "figure svg text", "fill") == ink
        assert style(chrome, "figure svg text", "fontFamily") == style(chrome, "body", "fontFamily")
        colours.append((ink, ground))
    assert colours[0] != colours[1]


def test_folded_parts_open_on_paper(chrome: Chrome, page: Path):
    open_page(chrome, page, DESKTOP)
    opened = "return document.querySelectorAll('details').length === document.querySelectorAll('details[open]').length"
    assert not chrome.execute_script(opened)
    chrome.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert chrome.execute_script(opened)
    chrome.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not chrome.execute_script(opened)


def test_without_scripts_the_page_is_complete(chrome: Chrome, page: Path):
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(chrome, page, DESKTOP)
        body = chrome.find_element(By.TAG_NAME, "body").text
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for words in ("What was run", "deep over shallow", "Accuracy by layer", "Loss during pretraining", "frozen backbone is hashed"):
        assert words in body
