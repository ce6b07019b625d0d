import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.contract.errors import DataError
from sslkit.contract.images import ImageSpec
from sslkit.data.file_set import FileSet
from sslkit.data.folder_scan import ImageFile
from tests.data.folders import find_images

SPEC = ImageSpec(8, 8, "rgb", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def images(folder):
    return FileSet(folder, find_images(folder), SPEC)


@pytest.fixture
def folder(tmp_path):
    for index, pixels in enumerate(PIXELS):
        (tmp_path / "é").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "é" / f"{index}.png")
    return tmp_path


def expected(*indices: int) -> torch.Tensor:
    return torch.from_numpy(PIXELS[list(indices)].transpose(0, 3, 1, 2))


def test_read_decodes_images_in_any_order(folder, images):
    assert len(images) == 5
    assert images.pixels is None
    assert torch.equal(images.read([3, 0, 3]), expected(3, 0, 3))
    assert images.read([]).shape == (0, 3, 8, 8)
    gray = FileSet(folder, find_images(folder), SPEC._replace(color="gray")).read([1])
    assert np.array_equal(gray[0, 0], Image.fromarray(PIXELS[1]).convert("L"))


def test_a_set_can_be_read_by_another_process_and_by_threads(folder):
    images = FileSet(folder, find_images(folder), SPEC, labels=torch.arange(5), classes=tuple("abcde"), skipped=("x.png",))
    copy = pickle.loads(pickle.dumps(images))
    assert (copy.fingerprint, copy.classes, copy.skipped, copy.image) == (images.fingerprint, tuple("abcde"), ("x.png",), SPEC)
    with ThreadPoolExecutor(4) as pool:
        for index, pixels in enumerate(pool.map(lambda n: copy.read([n % 5]), range(40))):
            assert torch.equal(pixels, expected(index % 5))


def test_a_bad_file_is_named(folder, images):
    path = folder / "é" / "2.png"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=re.escape(f"{path} cannot be decoded")):
        images.read([1, 2])
    assert len(images.read([1, 3])) == 2


def test_a_file_that_vanishes_or_changes_after_the_scan_is_named(folder, images):
    path = folder / "é" / "2.png"
    content = path.read_bytes()
    for changed in (content[:-1], content + b"?", b""):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=re.escape(f"{path} has changed since the folder was scanned; found '{len(changed)} bytes'")):
            images.read([2])
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path} is gone: it was there when the folder was scanned")):
        images.read([2])
    path.write_bytes(content)
    assert torch.equal(images.read([2]), expected(2))


def test_max_pixels_refuses_larger_files_and_is_no_part_of_the_fingerprint(folder, images):
    small, enough = (FileSet(folder, find_images(folder), SPEC, max_pixels=limit) for limit in (63, 64))
    assert torch.equal(enough.read([0]), expected(0))
    with pytest.raises(DataError, match="8 x 8: 64 pixels'; allowed: 63 pixels"):
        small.read([0])
    assert small.fingerprint == enough.fingerprint == images.fingerprint
    assert (len(small.undecodable()), len(enough.undecodable())) == (5, 0)


def test_undecodable_files_are_found(folder, images):
    assert images.undecodable() == set()
    (folder / "é" / "2.png").write_bytes((folder / "é" / "2.png").read_bytes()[:60])
    (folder / "é" / "4.png").unlink()
    files = [*find_images(folder), ImageFile("é/4.png", 1), ImageFile("é/5.png", -1)]
    assert FileSet(folder, files, SPEC).undecodable() == {"é/2.png", "é/4.png", "é/5.png"}


def test_fingerprint_follows_files_labels_and_options_but_not_the_place(folder):
    files, labels, classes = [ImageFile("a.png", 1), ImageFile("b.png", 2)], torch.tensor([0, 1]), ("a", "b")
    variants = [
        FileSet(folder, files, SPEC),
        FileSet(folder, files[::-1], SPEC),
        FileSet(folder, files[:1], SPEC),
        FileSet(folder, [ImageFile("a.png", 1), ImageFile("b.png", 3)], SPEC),
        FileSet(folder, [ImageFile("a.png", 1), ImageFile("c.png", 2)], SPEC),
        FileSet(folder, files, SPEC._replace(color="gray")),
        FileSet(folder, files, SPEC._replace(height=9, width=9)),
        FileSet(folder, files, SPEC, labels=labels, classes=classes),
        FileSet(folder, files, SPEC, labels=labels.flip(0), classes=classes),
        FileSet(folder, files, SPEC, labels=labels, classes=("a", "c")),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert FileSet(folder / "elsewhere", files, SPEC).fingerprint == variants[0].fingerprint
