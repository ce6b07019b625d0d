"""``sslkit show`` as a user meets it: the file, what is printed, and the exit code."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sslkit import OptionError
from sslkit.cli import preview
from sslkit.cli.commands import app
from sslkit.cli.preview import write_preview
from sslkit.report.pictures.grid import Sheet
from tests.recipes import HEAD, PRETRAIN, changed

RECIPE = changed("name=tiny", "data=digits", "stages.pretrain.augment.crop_padding=2", text=HEAD + PRETRAIN)

NO_PRETRAINING = """
name = "supervised"
data = "digits"
backbone = { name = "nin", num_blocks = 3 }

[stages.supervised]
weights = "random"
evaluator = { name = "supervised" }
"""

TASK = """
from dataclasses import dataclass
from typing import final

from sslkit import Objective, PretextTask


class Mine(Objective):
    heldout_phase = "main"

    def make_views(self, batch, generator, *, train):
        assert batch.images.shape[1] == 3
        return {"mirrored": batch.images.flip(-1)}

    def forward(self, views, step):
        raise NotImplementedError


@final
@dataclass(frozen=True, kw_only=True)
class Mirror(PretextTask):
    def build_objective(self, backbone, data):
        return Mine(backbone)


@final
@dataclass(frozen=True, kw_only=True)
class Masked(PretextTask):
    requires = frozenset({"masked_encode"})

    def build_objective(self, backbone, data):
        assert "masked_encode" in backbone.capabilities
        return Mine(backbone)


@final
@dataclass(frozen=True, kw_only=True)
class Odd(PretextTask):
    requires = frozenset({"smell"})

    def build_objective(self, backbone, data):
        raise AssertionError
"""


class Shown(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recipe, one that pretrains nothing, and a module with tasks."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "supervised.toml").write_text(NO_PRETRAINING)
    (tmp_path / "preview_tasks.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "preview_tasks", raising=False)
    return tmp_path


def show(*arguments: str) -> Shown:
    result = CliRunner().invoke(app, ["show", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return Shown(result.exit_code, result.stdout, result.stderr)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that is not blank."""
    image = np.asarray(Image.open(path).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    return image.shape[1], image.shape[0]


def test_a_task_is_shown_on_digits(here: Path):
    assert show("rotnet") == (0, "runs/rotnet-views.png\n", "")
    width, height = size(here / "runs" / "rotnet-views.png")
    assert show("rotnet", "angles=[0, 180]", "--num-images", "2", "--output", "deep/down.png") == (0, "deep/down.png\n", "")
    smaller = size(here / "deep" / "down.png")
    assert smaller[0] < width
    assert smaller[1] < height


def test_a_recipe_is_shown_on_its_own_data(here: Path):
    assert show("tiny.toml", "stages.pretrain.task.angles=[0, 90]", "--num-images", "2") == (0, "runs/tiny-views.png\n", "")
    size(here / "runs" / "tiny-views.png")


VIEWS = """
[stages.probe]
weights = "pretrain"

[stages.probe.evaluator]
name = "linear_probe"
layers = ["conv2"]
train_view = { random_resized_crop = { size = 8 }, horizontal_flip = {} }
test_view = { center_crop = { size = 7 } }

[stages.knn]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv2"] }
"""


def sheets_of(*arguments: str) -> list[Sheet]:
    """What would be drawn."""
    drawn: list[Sheet] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "draw_sheets", lambda *sheets: drawn.extend(sheets))
        patch.setattr(preview, "png", lambda _: b"")
        assert show(*arguments, "--num-images", "2").code == 0
    return drawn


def test_the_views_of_evaluators_are_shown(here: Path):
    (here / "both.toml").write_text(RECIPE + VIEWS)
    pretext, probe = sheets_of("both.toml")
    assert (pretext.title, probe.title) == ("tiny: pretrain", "tiny: probe")
    assert [(panel.notes[0], len(panel.images)) for panel in probe.panels] == [
        ("image", 2),
        ("test_view, 7 x 7", 2),
        ("train_view, 8 x 8", 8),
    ]
    assert torch.equal(probe.panels[1].images, probe.panels[0].images[..., 0:7, 0:7])
    (here / "one.toml").write_text(NO_PRETRAINING.replace('name = "supervised" }', 'name = "supervised", test_view = "mae" }'))
    assert "test_view.random_resized_crop: is random" in show("one.toml").err
    (here / "one.toml").write_text(NO_PRETRAINING.replace('name = "supervised" }', 'name = "supervised", train_view = "mae" }'))
    assert [sheet.title for sheet in sheets_of("one.toml")] == ["supervised: supervised"]


def test_any_view_can_be_shown_of_a_recipes_images_a_folder_or_a_dataset(here: Path):
    (here / "photos").mkdir()
    for shade in (50, 200):
        Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(here / "photos" / f"{shade}.png")
    larger = {"tiny.toml": 'data={ name = "digits", image_size = 16 }', "photos": "image_size=16", "digits": "image_size=16"}
    for what, setting in larger.items():
        (sheet,) = sheets_of(what, setting, "--view", '{ name = "simclr_cifar", size = 12 }')
        assert sheet.title == f'{what.removesuffix(".toml")}: {{ name = "simclr_cifar", size = 12 }}'
        assert sheet.panels[0].images.shape[-2:] == (16, 16)
        assert sheet.panels[1].images.shape[-2:] == (12, 12)
    assert (here / "runs" / "photos-views.png").exists()
    for settings in ([], ["max_images=1"]):
        done = show("photos", *settings, "--view", "mae", "--output", "photos/mae.png")
        assert done.code == 2, "it would lie among the images"


def test_a_bundled_recipe_is_found_by_its_name(here: Path):
    assert show("quickstart", "--num-images", "1").out == "runs/quickstart-views.png\n"
    size(here / "runs" / "quickstart-views.png")


def test_every_task_of_a_sweep_has_a_sheet(here: Path):
    (here / "swept.toml").write_text(f"{RECIPE}\n[sweep]\n'stages.pretrain.epochs' = [1, 2]\n")
    (here / "tasks.toml").write_text(
        f"{RECIPE}\n[sweep]\na = {{ 'stages.pretrain.task.angles' = [0, 180] }}\nb = {{ 'stages.pretrain.task.angles' = [0, 90] }}\n"
    )
    heights = [
        size(Path(show(name, "--num-images", "2", "--output", f"{name}.png").out.strip()))[1]
        for name in ("tiny.toml", "swept.toml", "tasks.toml")
    ]
    assert heights[0] == heights[1]
    assert heights[2] > 1.8 * heights[0]


def test_a_class_needs_no_packaging_and_gets_three_channels(here: Path):
    assert show("preview_tasks:Mirror", "--num-images", "2").out == "runs/Mirror-views.png\n"
    size(here / "runs" / "Mirror-views.png")


def test_a_task_of_tokens_gets_a_network_of_tokens():
    assert show("preview_tasks:Masked", "--num-images", "2").out == "runs/Masked-views.png\n"


def test_a_folder_of_images_is_data(here: Path):
    (here / "photos").mkdir()
    for shade in (50, 200):
        Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(here / "photos" / f"{shade}.png")
    assert show("rotnet", "--data", "photos").out == "runs/rotnet-views.png\n"
    image = np.asarray(Image.open(here / "runs" / "rotnet-views.png").convert("RGB"))
    assert {50, 200} <= {int(shade) + error for shade in np.unique(image[..., 0]) for error in (-2, -1, 0, 1, 2)}


def test_digits_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, tuple[int, ...]]] = []
    draw = preview.draw_sheets

    def watching(*sheets: Sheet) -> object:
        seen.extend((sheet.title, tuple(sheet.panels[0].images.shape[1:])) for sheet in sheets)
        return draw(*sheets)

    monkeypatch.setattr(preview, "draw_sheets", watching)
    for arguments in (["rotnet"], ["tiny.toml"], ["preview_tasks:Mirror"], ["preview_tasks:Masked"]):
        assert show(*arguments, "--num-images", "1", "--output", "one.png").code == 0
    enlarged = "(digits at 32 x 32, in three equal channels)"
    assert seen == [
        ("rotnet", (1, 8, 8)),
        ("tiny: pretrain", (1, 8, 8)),
        (f"preview_tasks:Mirror {enlarged}", (3, 32, 32)),
        (f"preview_tasks:Masked {enlarged}", (3, 32, 32)),
    ]


def test_a_picture_is_never_written_among_the_images(here: Path, monkeypatch: pytest.MonkeyPatch):
    photos = here / "photos"
    (photos / "more").mkdir(parents=True)
    for shade in (50, 200):
        Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)).save(photos / f"{shade}.png")
    (here / "link").symlink_to(photos)
    (here / "mine.toml").write_text(RECIPE.replace('data = "digits"', 'data = { name = "image_folder", root = "photos", image_size = 8 }'))
    before = sorted(here.rglob("*.png"))
    for what in (["rotnet", "--data", "photos"], ["mine.toml"]):
        for output in ("photos/views.png", "photos/more/views.png", "link/views.png", str(photos / "new" / "views.png")):
            shown = show(*what, "--output", output)
            assert (shown.code, shown.out) == (2, "")
            assert shown.err.startswith("error: output: is inside the data, photos; found ")
    monkeypatch.chdir(photos)
    assert show("rotnet", "--data", ".").code == 2, "the default would lie there, too"
    assert sorted(here.rglob("*.png")) == before
    assert not (photos / "runs").exists()
    assert show("rotnet", "--data", ".", "--num-images", "1", "--output", "../views.png").code == 0


def test_a_data_set_can_be_named():
    assert show("rotnet", "--data", "digits", "--num-images", "1").code == 0


def test_the_picture_has_the_same_bytes_every_time(here: Path):
    first, second = (write_preview("rotnet", num_images=2, output=here / f"{i}.png").read_bytes() for i in range(2))
    assert first == second


def test_showing_draws_no_random_numbers():
    state = torch.get_rng_state()
    write_preview("tiny.toml", num_images=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotnt"], "error: rotnt: neither a pretext task nor a recipe; allowed: rotnet, "),
        (["quickstrt"], "did you mean 'quickstart'?"),
        (["xyz"], "`sslkit plugins` lists the tasks, and which plugins are broken"),
        (["missing.toml"], "error: missing.toml: no such file"),
        (["rotnet", "angels=[0, 90]"], "error: angels: unknown option; did you mean 'angles'?"),
        (["rotnet", "angles"], "error: override 'angles': must be KEY=VALUE"),
        (["rotnet", "angles=[0, 360]"], "error: angles: must be at least two numbers"),
        (["preview_tasks:Mirorr"], "did you mean 'Mirror'?"),
        (["nowhere:Task"], "'nowhere:Task' cannot be imported"),
        (["preview_tasks:Odd"], "error: Odd needs a backbone with smell; show a recipe that names one"),
        (["tiny.toml", "stages.pretrain.task.angels=[0, 90]"], "error: stages.pretrain.task.angels: unknown option"),
        (["supervised.toml"], "error: supervised.toml: no stage of it pretrains"),
        (["tiny.toml", "--data", "digits"], "error: data: a recipe has its own; found 'digits'"),
        (["digits", "--view", "maee"], "error: view: no such preset; found 'maee'; allowed: simclr_cifar, "),
        (
            ["digits", "--view", "{ resize = 3 }"],
            "error: view.resize: must be a table of its options; found 3; allowed: {} for the defaults",
        ),
        (["digits", "--view", "{ gaussian_blur = { kernel_size = 99 } }"], "error: view.gaussian_blur.kernel_size: does not fit; found 99"),
        (["digits", "--view", "{ resize ="], "error: override 'view={ resize =': not valid TOML"),
        (["digit", "--view", "mae"], "error: data: no dataset is called 'digit'"),
        (["digits", "--view", "mae", "image_sise=16"], "error: data.image_sise: unknown option; did you mean 'image_size'?"),
        (["digits", "--view", "mae", "--data", "digits"], "error: data: cannot be combined with --view; found 'digits'"),
        (["rotnet", "--data", "digts"], "error: data: no dataset is called 'digts'"),
        (["rotnet", "--num-images", "0"], "error: num_images: must be positive; found 0; allowed: 1 or more"),
        (["rotnet", "--output", "views.jpg"], "error: output: must be a PNG file; found 'views.jpg'"),
        (["rotnet", "--output", "tiny.toml/views.png"], "error: output: cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], message: str, here: Path):
    before = set(here.iterdir())
    shown = show(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert {path for path in here.iterdir() if path.name != "__pycache__"} == before


def test_a_folder_without_images_is_reported(here: Path):
    (here / "empty").mkdir()
    shown = show("rotnet", "--data", "empty")
    assert shown.code == 2
    assert shown.err.startswith("error: ")


def test_python_callers_get_the_exception():
    with pytest.raises(OptionError, match="num_images: must be positive"):
        write_preview("rotnet", num_images=-1)
