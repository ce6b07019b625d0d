"""A folder of 16-bit images of thirteen bands through the command line: measured, pretrained, probed, drawn and reported."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

RNG = np.random.default_rng(0)

STAGES = """
fit = "pad"
display = [3, 2, 1]

[backbone]
name = "nin"
width = 0.05
num_blocks = 3

[stages.pretrain]
task = "rotnet"
epochs = 1
batch_size = 6

[stages.probe]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 6 }
"""


@pytest.mark.slow
def test_from_the_files_to_the_report(tmp_path, sslkit_command):
    for split, num in (("train", 6), ("test", 3)):
        for name in ("field", "forest"):
            (tmp_path / "tiles" / split / name).mkdir(parents=True)
            for index in range(num):
                path = tmp_path / "tiles" / split / name / f"{index}.tif"
                tifffile.imwrite(path, RNG.integers(0, 10_000, (13, 20, 24)).astype(np.uint16), photometric="minisblack")
    data = '[data]\nname = "image_folder"\nroot = "tiles"\ncolor = "bands"\nimage_size = 16\ndecoder = "sslkit_tiff:Tiff"\n'
    Path("data.toml").write_text(data)
    measured = sslkit_command("data", "stats", "data.toml", "-q")
    assert measured.code == 0
    table = measured.out[measured.out.index("[data]") :]
    Path("bands.toml").write_text('name = "bands"\ndevice = "cpu"\n' + table + STAGES)
    checked = sslkit_command("check", "bands.toml")
    assert (checked.code, checked.out.splitlines()[-1]) == (0, "bands.toml: fine, 2 stages: pretrain, probe")
    assert sslkit_command("run", "bands.toml").code == 0
    page = Path("runs/bands/report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("What the pretext task sees", "First-layer filters", "Attention maps", "Nearest neighbours"))
    assert "Of 13 channels the first ones are drawn." in page
    assert "finished earlier" in sslkit_command("run", "bands.toml").err
    assert sslkit_command("show", "bands.toml", "--num-images", "2").code == 0
    with Image.open("runs/bands-views.png") as picture:
        assert picture.width > 100
    refused = sslkit_command("check", "bands.toml", "data.window=[5, 1]")
    assert (refused.code, refused.err) == (
        2,
        "error: data.window: must be two values, the smaller one first; found (5.0, 1.0); allowed: [low, high]\n",
    )
