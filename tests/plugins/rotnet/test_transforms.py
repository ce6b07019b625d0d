import math
import random

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from sslkit_rotnet.transforms import NAMED, central_square, common_fraction, is_exact, rotation, transform_all

EIGHT = [rotation(angle) for angle in range(0, 360, 45)]

LAST = 4
# Where the pixel in row i, column j of a 5 x 5 result comes from.
SOURCES = {
    "identity": lambda i, j: (i, j),
    "rotate90": lambda i, j: (j, LAST - i),
    "rotate180": lambda i, j: (LAST - i, LAST - j),
    "rotate270": lambda i, j: (LAST - j, i),
    "horizontal_flip": lambda i, j: (i, LAST - j),
    "vertical_flip": lambda i, j: (LAST - i, j),
    "transpose": lambda i, j: (j, i),
}


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def bilinear(picture: list[list[int]], y: float, x: float) -> float:
    """One value between pixels; a place outside of the picture is an error, not something to be padded."""
    last = len(picture) - 1
    assert -1e-6 <= y <= last + 1e-6
    assert -1e-6 <= x <= last + 1e-6
    top, left = (min(max(math.floor(v), 0), last - 1) for v in (y, x))
    v, u = y - top, x - left
    above = picture[top][left] * (1 - u) + picture[top][left + 1] * u
    below = picture[top + 1][left] * (1 - u) + picture[top + 1][left + 1] * u
    return above * (1 - v) + below * v


def naive(image: Tensor, *, degrees: float = 0.0, fraction: float, moved: int = 0, margin: int = 0) -> Tensor:
    """One pixel at a time, in complex numbers with the imaginary axis upwards: (S, S) uint8 -> (S, S) float64.

    With a margin, so many black pixels lie around the image.
    """
    side = len(image)
    picture = torch.nn.functional.pad(image, [margin] * 4).tolist()
    middle = (side - 1) / 2
    back = complex(math.cos(math.radians(-degrees)), math.sin(math.radians(-degrees)))
    result = torch.zeros(side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            source = complex(j - middle, middle - i) * fraction * back
            y, x = middle - source.imag - moved, middle + source.real - moved
            result[i, j] = bilinear(picture, y + margin, x + margin)
    return result


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    assert found.dtype == torch.uint8
    assert (found - exact).abs().max() < 0.5 + 1e-3


def test_the_example_of_a_rotation_by_90_degrees():
    image = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 1, 3, 3)
    views = transform_all(image, [rotation(90), rotation(180)])
    assert views[0, 0].tolist() == [[3, 6, 9], [2, 5, 8], [1, 4, 7]]
    assert views[1, 0].tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]


@pytest.mark.parametrize("name", SOURCES)
def test_exact_transforms_equal_a_copy_pixel_by_pixel(name):
    images = random_images(2, 3, 5, 5)
    found = transform_all(images, [NAMED[name], NAMED["identity"]])[:2]
    for i in range(5):
        for j in range(5):
            row, column = SOURCES[name](i, j)
            assert torch.equal(found[:, :, i, j], images[:, :, row, column]), (i, j)


def test_every_named_transform_is_tested_and_gives_another_picture():
    assert set(NAMED) == {*SOURCES, "scale", "translate"}
    for side in (8, 32):
        views = transform_all(random_images(1, 1, side, side), list(NAMED.values()))
        assert len({tuple(view.flatten().tolist()) for view in views}) == len(NAMED)


def test_rotations_by_quarters_are_the_named_ones():
    for angle, name in ((0, "identity"), (90, "rotate90"), (-180, "rotate180"), (630, "rotate270"), (-1e-14, "identity")):
        assert rotation(angle) == NAMED[name]


def test_only_sets_of_quarter_turns_and_flips_are_exact():
    assert is_exact([NAMED[name] for name in SOURCES])
    for odd in (NAMED["scale"], NAMED["translate"], rotation(1)):
        assert not is_exact([NAMED["identity"], odd])


def test_views_come_class_after_class():
    images = random_images(3, 2, 4, 4)
    views = transform_all(images, [rotation(270), rotation(0)])
    assert views.shape == (6, 2, 4, 4)
    assert torch.equal(views[3:], images)
    assert torch.equal(views[1:2], transform_all(images[1:2], [rotation(270), rotation(0)])[:1])


@pytest.mark.parametrize("angles", [(0, 45, 90, 135, 180, 225, 270, 315), (10, -77.5, 200), (0, 30)])
@pytest.mark.parametrize("side", [8, 11])
def test_any_angle_equals_bilinear_sampling_pixel_by_pixel(angles, side):
    images = random_images(2, 1, side, side)
    views = transform_all(images, [rotation(angle) for angle in angles]).unflatten(0, (len(angles), 2))
    fraction = min(1 / (abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle)))) for angle in angles)
    for angle, view in zip(angles, views, strict=True):
        for image, found in zip(images, view, strict=True):
            assert_rounded(found[0], naive(image[0], degrees=angle, fraction=fraction))


@pytest.mark.parametrize(("side", "moved", "fraction"), [(8, 1, 1 - 2 / 7), (15, 1, 0.75), (17, 2, 0.75)])
def test_scale_and_translate_equal_bilinear_sampling_pixel_by_pixel(side, moved, fraction):
    images = random_images(1, 1, side, side)
    identity, scale, translate, turned = transform_all(images, [NAMED[n] for n in ("identity", "scale", "translate", "rotate90")])
    assert_rounded(identity[0], naive(images[0, 0], fraction=fraction))
    assert_rounded(scale[0], naive(images[0, 0], fraction=fraction / 1.5))
    assert_rounded(translate[0], naive(images[0, 0], fraction=fraction, moved=moved))
    assert_rounded(turned[0], naive(images[0, 0], degrees=90, fraction=fraction))


@pytest.mark.parametrize("side", [8, 11])
def test_in_place_equals_bilinear_sampling_on_a_black_ground_pixel_by_pixel(side):
    image = random_images(1, 1, side, side)
    angles = (0, 45, 90, 100, -77.5)
    views = transform_all(image, [rotation(angle) for angle in angles], "in_place")
    for angle, found in zip(angles, views, strict=True):
        assert_rounded(found[0], naive(image[0, 0], degrees=angle, fraction=1, margin=side))
    identity, scale, translate = transform_all(image, [NAMED[name] for name in ("identity", "scale", "translate")], "in_place")
    assert torch.equal(identity, image[0])
    assert_rounded(scale[0], naive(image[0, 0], fraction=1 / 1.5))
    assert torch.equal(translate[:, 1:, 1:], image[0, :, :-1, :-1])  # an eighth of 8 or of 11 is one whole pixel
    assert not translate[:, 0].any()
    assert not translate[:, :, 0].any()


def test_in_place_is_what_torchvision_does():
    images = random_images(2, 3, 32, 32)
    angles = (0, 45, 135, 200)
    views = transform_all(images, [rotation(angle) for angle in angles], "in_place").unflatten(0, (len(angles), 2))
    for angle, found in zip(angles, views, strict=True):
        expected = rotate(images, angle, interpolation=InterpolationMode.BILINEAR)
        assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("side", [8, 11])
def test_one_sided_equals_bilinear_sampling_from_each_classes_own_window_pixel_by_pixel(side):
    image = random_images(1, 1, side, side)
    angles = (0, 45, 90, 100, 10)
    views = transform_all(image, [rotation(angle) for angle in angles], "one_sided")
    for angle, found in zip(angles, views, strict=True):
        own = 1 / (abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle))))
        assert_rounded(found[0], naive(image[0, 0], degrees=angle, fraction=own))
    identity, scale, translate = transform_all(image, [NAMED[name] for name in ("identity", "scale", "translate")], "one_sided")
    assert torch.equal(identity, image[0])
    assert_rounded(scale[0], naive(image[0, 0], fraction=1 / 1.5))
    assert_rounded(translate[0], naive(image[0, 0], fraction=1 - 2 / (side - 1), moved=1))


@pytest.mark.parametrize("interpolation", ["in_place", "one_sided"])
def test_the_controls_leave_exact_classes_and_exact_sets_alone(interpolation):
    images = random_images(2, 3, 32, 32)
    upright = [rotation(angle) for angle in (0, 90, 180, 270)]
    exact = transform_all(images, upright)
    assert torch.equal(transform_all(images, upright, interpolation), exact)
    assert torch.equal(transform_all(images, [*upright, rotation(45)], interpolation)[: len(exact)], exact)
    assert not torch.equal(transform_all(images, [*upright, rotation(45)])[: len(exact)], exact)


def test_only_in_place_leaves_black_corners():
    white = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    assert (transform_all(white, EIGHT, "one_sided") == 255).all()
    turned = transform_all(white, EIGHT, "in_place")[1::2]
    assert not turned[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert (turned[:, :, 12:20, 12:20] == 255).all()


def test_the_central_window_is_the_largest_without_an_empty_corner():
    assert common_fraction(EIGHT, 32) == pytest.approx(math.sqrt(0.5))
    assert common_fraction([rotation(0), rotation(90)], 32) == 1
    draw = random.Random(0)
    for _ in range(20):
        angles = [draw.uniform(0, 360) for _ in range(3)]
        half = common_fraction([rotation(angle) for angle in angles], 32)
        corners = [half * complex(1, 1) * complex(math.cos(a), math.sin(a)) for a in map(math.radians, angles)]
        reach = max(max(abs(corner.real), abs(corner.imag)) for corner in corners)
        assert reach == pytest.approx(1), angles


@pytest.mark.parametrize("value", [0, 1, 200, 255])
@pytest.mark.parametrize("side", [8, 31])
def test_a_constant_image_stays_constant(value, side):
    images = torch.full((1, 3, side, side), value, dtype=torch.uint8)
    transforms = [*NAMED.values(), *EIGHT, *(rotation(angle) for angle in (1, 89.5, 123, 260))]
    assert (transform_all(images, transforms) == value).all()


def test_a_bright_frame_outside_of_the_window_is_never_seen():
    side = 32
    axis = torch.arange(side) - (side - 1) / 2
    outside = torch.hypot(axis[:, None], axis[None, :]) > (side - 1) / 2 + math.sqrt(2)  # of all turned windows, and their neighbours
    images = (outside * 255).to(torch.uint8)[None, None]
    assert not transform_all(images, EIGHT).any()
    assert transform_all(images, EIGHT[::2]).any()  # quarter turns alone keep the corners


def test_the_crop_and_resize_are_the_same_for_every_angle():
    side = 64
    axis = torch.arange(side) - (side - 1) / 2
    rings = (torch.hypot(axis[:, None], axis[None, :]) * 5).to(torch.uint8)[None, None]
    views = transform_all(rings, EIGHT).int()
    assert (views - views[:1]).abs().max() <= 2
    assert not torch.equal(views[0], rings[0].int())  # 0 degrees is cropped too


def test_classes_a_quarter_turn_apart_differ_in_nothing_else():
    views = transform_all(random_images(1, 1, 16, 16), EIGHT)
    for first, second in ((0, 2), (1, 3), (3, 5), (5, 7)):
        assert torch.equal(torch.rot90(views[first], 1, (-2, -1)), views[second])


def test_translate_is_the_identity_of_a_picture_moved_by_whole_pixels():
    images = random_images(4, 3, 32, 32)
    pair = [NAMED["identity"], NAMED["translate"]]
    moved = transform_all(images.roll((4, 4), (-2, -1)), pair)[:4]
    translated = transform_all(images, pair)[4:]
    assert (moved.int() - translated.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(4, 7, (0, 4), (1, 5)), (6, 4, (1, 5), (0, 4)), (3, 3, (0, 3), (0, 3))])
def test_other_shapes_are_cut_to_their_central_square(height, width, rows, columns):
    images = random_images(2, 3, height, width)
    square = images[:, :, slice(*rows), slice(*columns)]
    assert torch.equal(central_square(images), square)
    transforms = [NAMED["rotate90"], NAMED["vertical_flip"]]
    assert torch.equal(transform_all(images, transforms), transform_all(square, transforms))


def test_an_interpolated_set_cuts_other_shapes_too():
    images = random_images(1, 1, 12, 9)
    assert torch.equal(transform_all(images, EIGHT), transform_all(images[:, :, 1:10], EIGHT))


def test_images_are_left_alone():
    images = random_images(2, 3, 8, 8)
    before = images.clone()
    first, second = (transform_all(images, [*EIGHT, *NAMED.values()]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_pictures():
    images = random_images(4, 3, 32, 32)
    exact = [NAMED[name] for name in SOURCES]
    assert torch.equal(transform_all(images.cuda(), exact).cpu(), transform_all(images, exact))
    interpolated = [*EIGHT, *NAMED.values()]
    difference = transform_all(images.cuda(), interpolated).cpu().int() - transform_all(images, interpolated).int()
    assert difference.abs().max() <= 1
