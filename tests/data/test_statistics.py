"""What ``sslkit data stats`` measures, against NumPy."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit import Arrays, DataError, Digits, ImageFolder, load_recipe
from sslkit.data.moments import Moments
from sslkit.data.statistics import measure_data, paste
from sslkit.data.subset import Subset

RNG = np.random.default_rng(0)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for split, num in (("train", 5), ("test", 3)):
        for index in range(num):
            for name in ("cat", "dog"):
                write(root / split / name / f"{index}.png", RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return root


def naive(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) / 255 for path in sorted((root / split).rglob("*.png"))])
    return values.mean(axis=0), values.std(axis=0)


def test_mean_and_std_are_exact(folder):
    found = measure_data(ImageFolder(root=str(folder), image_size=8))
    for split in ("train", "test"):
        mean, std = naive(folder, split)
        assert found.splits[split].mean == pytest.approx(mean, rel=1e-12)
        assert found.splits[split].std == pytest.approx(std, rel=1e-12)
    assert found.splits["pretrain"].mean == found.splits["train"].mean == found.image.mean
    assert (found.window, found.suggested) == (None, False)
    assert found.splits["train"].classes == {"cat": 5, "dog": 5}
    assert found.splits["pretrain"].classes == {}
    assert found.splits["test"].sizes == {(8, 8): 6}
    assert not any(split.broken or split.repeated.num_images for split in found.splits.values())
    assert found.shared["pretrain"].num_images == 0


def test_many_parts_are_merged_as_if_they_were_one():
    values = torch.from_numpy(RNG.normal(1e4, 1e-2, (50, 2, 3, 5)))
    whole, merged = values.transpose(0, 1).flatten(1), Moments(2)
    for part in values.split([1, 7, 30, 12]):
        one = Moments(2)
        one.add(part)
        merged.merge(one)
    merged.merge(Moments(2))
    assert merged.count == 50 * 15
    torch.testing.assert_close(merged.mean, whole.mean(dim=1), rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.std, whole.std(dim=1, correction=0), rtol=1e-7, atol=0)


def test_sizes_broken_files_and_duplicates(folder):
    write(folder / "train" / "cat" / "large.png", RNG.integers(0, 256, (20, 9, 3), dtype=np.uint8))
    (folder / "train" / "dog" / "bad.png").write_bytes(b"nothing")
    twice = (folder / "train" / "cat" / "0.png").read_bytes()
    (folder / "train" / "dog" / "twin.png").write_bytes(twice)
    Image.open(folder / "train" / "dog" / "1.png").save(folder / "test" / "dog" / "again.bmp")  # other bytes, the same pixels
    found = measure_data(ImageFolder(root=str(folder), image_size=8, on_error="skip"))
    train = found.splits["train"]
    assert train.num_images == 13
    assert train.sizes == {(8, 8): 11, (20, 9): 1}
    assert [*train.broken] == ["dog/bad.png"]
    assert "dog/bad.png cannot be decoded" in train.broken["dog/bad.png"]
    assert train.repeated == (1, (("dog/twin.png", "cat/0.png"),))
    assert found.shared == {"pretrain": (1, (("dog/again.bmp", "dog/1.png"),))}
    json.dumps(found.as_json())


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_window_is_suggested_and_then_confirmed(tmp_path, dtype):
    values = (RNG.random((6, 7, 7)) * 3_000 + 500).astype(dtype)
    for index, image in enumerate(values):
        write(tmp_path / f"{index}.tif", image)
    data = ImageFolder(root=str(tmp_path), image_size=7, color="gray")
    found = measure_data(data)
    low, high = float(values.min()), float(values.max())
    assert (found.window, found.suggested) == ((low, high), True)
    scaled = (values.astype(np.float64) - low) / (high - low)
    assert found.image.mean == pytest.approx([scaled.mean()], rel=1e-12)
    assert found.image.std == pytest.approx([scaled.std()], rel=1e-12)
    assert (found.splits["pretrain"].low, found.splits["pretrain"].high) == ((low,), (high,))
    narrow = measure_data(ImageFolder(root=str(tmp_path), image_size=7, color="gray", window=(1_000, 2_000)))
    clamped = ((values.astype(np.float64) - 1_000) / 1_000).clip(0, 1)
    assert (narrow.window, narrow.suggested) == ((1_000, 2_000), False)
    assert narrow.image.mean == pytest.approx([clamped.mean()], rel=1e-12)
    assert narrow.image.std == pytest.approx([clamped.std()], rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_gray_is_proposed_where_every_image_has_one_channel(tmp_path, dtype):
    values = RNG.integers(0, 250, (4, 7, 7)).astype(dtype)
    for index, image in enumerate(values):
        write(tmp_path / f"{index}.png", image)
    table: dict[str, object] = {"name": "image_folder", "root": str(tmp_path), "image_size": 7}
    data = ImageFolder(root=str(tmp_path), image_size=7)
    pasted, notes = paste(table, data, measure_data(data))
    assert (pasted["color"], len(pasted["mean"]), len(pasted["std"])) == ("gray", 1, 1)
    assert sum('hence color = "gray"' in note for note in notes) == 1
    again = ImageFolder(**{key: value for key, value in pasted.items() if key != "name"})
    assert measure_data(again).image.mean == pytest.approx(pasted["mean"], rel=1e-5)
    assert len(paste({**table, "color": "rgb"}, data, measure_data(data))[0]["mean"]) == 3, "as it is stated"
    write(tmp_path / "color.png", np.zeros((7, 7, 3), np.uint8))
    assert "color" not in paste(table, data, measure_data(data))[0]


def test_arrays_and_digits():
    bands = RNG.integers(0, 256, (9, 5, 6, 6), dtype=np.uint8)
    found = measure_data(Arrays(train_images=bands, test_images=bands[:2]))
    assert found.image.mean == pytest.approx(bands.mean(axis=(0, 2, 3)) / 255, rel=1e-12)
    assert found.shared["pretrain"] == (2, (("image 0", "image 0"), ("image 1", "image 1")))
    digits = measure_data(Digits())
    assert digits.image.mean[0] == pytest.approx(0.3052, abs=1e-4)
    table, notes = paste({"name": "digits"}, Digits(), digits)
    assert table == {"name": "digits", "mean": [0.305183], "std": [0.375994]}
    assert notes == []


def test_images_that_cannot_be_read_at_all(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"none of the images can be decoded; the first: x\.png: .*x\.png cannot be decoded"):
        measure_data(ImageFolder(root=str(tmp_path)))


RECIPE = """
name = "measured"
[data]
name = "image_folder"
root = "photos"
image_size = 8
{}
[stages.knn]
weights = "random"
evaluator = {{ name = "knn", layers = ["conv2"] }}
[backbone]
name = "nin"
width = 0.05
"""


def test_the_command_prints_what_a_recipe_takes(folder, sslkit_command):
    Path("mine.toml").write_text(RECIPE.format(""))
    (folder / "train" / "dog" / "[bad].png").write_bytes(b"nothing")
    done = sslkit_command("data", "stats", "mine.toml")
    assert done.code == 0
    printed = done.out[done.out.index("[data]") :]
    mean, std = naive(folder, "test")
    assert "broken in pretrain: dog/[bad].png: " in done.err
    assert done.err.count("[bad].png cannot be decoded") == 1
    Path("pasted.toml").write_text('name = "pasted"\n' + printed + RECIPE.format("")[RECIPE.index("\n[stages") - 2 :].lstrip("}\n"))
    data = load_recipe("pasted.toml").data
    assert len(data.image().mean) == 3
    done = sslkit_command("data", "stats", "pasted.toml", "data.root=photos/test", "--json", "-q")
    found = json.loads(done.out)
    assert found["mean"] == pytest.approx(mean, rel=1e-12)
    assert found["data"]["std"] == pytest.approx(std, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no such file, and no bundled recipe of this name"),
        (["mine.toml"], "error: mine.toml: data: missing; required; write a table [data]\n"),
        (["digits", "data.image_sise=9"], "error: data.image_sise: unknown option; did you mean 'image_size'?\n"),
        (["photos", "data.root=gone"], "error: "),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, message, folder, sslkit_command):
    assert folder.is_dir()
    Path("mine.toml").write_text('name = "mine"\n')
    done = sslkit_command("data", "stats", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1


def test_a_dataset_or_a_folder_by_its_name(folder, sslkit_command):
    assert folder.is_dir()
    assert tomllib.loads(sslkit_command("data", "stats", "photos", "data.image_size=8").out.partition("[data]")[2])["root"] == "photos"
    assert 'name = "digits"' in sslkit_command("data", "stats", "digits").out


def test_a_part_of_the_data(folder, sslkit_command):
    (folder / "train" / "dog" / "bad.png").write_bytes(b"nothing")
    Path("mine.toml").write_text(RECIPE.format('classes = ["cat"]\nmax_images = 3'))
    found = json.loads(sslkit_command("data", "stats", "mine.toml", "--json").out)
    assert {name: split["num_images"] for name, split in found["splits"].items()} == {"pretrain": 3, "train": 3, "test": 3}
    assert found["data"]["max_images"] == 3
    assert len(found["data"]["mean"]) == 3
    bands = Arrays(train_images=RNG.integers(0, 9_000, (6, 5, 4, 4)).astype(np.uint16), window=(0, 9_000), display=(4, 1, 0))
    part = Subset(source=bands, max_images=2).load("pretrain")
    assert part is not None
    assert (part.window, part.display, len(part)) == ((0, 9_000), (4, 1, 0), 2)
    assert measure_data(Subset(source=bands, max_images=2)).window == (0, 9_000)
