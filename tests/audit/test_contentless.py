import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit.audit.sources import (
    COPIES,
    NOISE,
    SOURCES,
    Shape,
    Spectrum,
    frequencies,
    isotropic_noise,
    jpeg_noise,
    measure_spectrum,
    patch_side,
    phase_scrambled,
    shuffled_patches,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def blurred(num_images: int, num_chs: int = 3, height: int = 16, width: int = 16) -> Tensor:
    """Soft blobs whose channels go together, brighter above than below: (N, C, H, W) uint8."""
    noise = torch.randn(num_images, num_chs + 1, height + 4, width + 4, generator=seeded(3))
    noise = F.avg_pool2d(F.avg_pool2d(noise, 3, stride=1), 3, stride=1)
    light = torch.linspace(20, -20, height)[:, None]
    return (120 + 120 * (noise[:, :1] + 0.5 * noise[:, 1:]) + light).round().clamp(0, 255).to(torch.uint8)


def as_floats(images: Tensor) -> Tensor:
    return images.double() / 255


# ------------------------------------------------------------------------------------------------------------- the spectrum


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
def test_the_spectrum_equals_a_loop(height, width):
    images = blurred(3, height=height, width=width)
    window = torch.tensor(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]))
    centred = (as_floats(images) - as_floats(images).mean(dim=(0, 2, 3))[:, None, None]) * window
    side = min(height, width)
    rings: dict[int, list[Tensor]] = {}
    for v in range(height):
        for u in range(width):
            wave = torch.zeros(3, 3, dtype=torch.complex128)
            for image in centred:
                phase = torch.arange(height)[:, None] * v / height + torch.arange(width)[None, :] * u / width
                term = (image * torch.exp(-2j * math.pi * phase)).sum(dim=(1, 2)) / window.square().sum().sqrt()
                wave += term[:, None] * term[None, :].conj() / len(centred)
            fy, fx = (v if v < height / 2 else v - height) / height, (u if u < width / 2 else u - width) / width
            rings.setdefault(round(math.hypot(fy, fx) * side), []).append(wave)
    found = measure_spectrum(images)
    assert len(found.power) == side // 2 + 1
    assert torch.allclose(found.mean, as_floats(images).mean(dim=(0, 2, 3)))
    for radius, power in enumerate(found.power):
        assert torch.allclose(power, torch.stack(rings[radius]).mean(dim=0).real)


def test_frequencies_of_half_a_transform_are_those_of_the_whole():
    assert torch.equal(frequencies(6, 8, half=True)[:, :4], frequencies(6, 8)[:, :4])
    assert frequencies(4, 4)[0].tolist() == [0, 0.25, 0.5, 0.25]


def test_roots_are_the_same_in_all_directions_and_end_at_half_a_cycle():
    spectrum = measure_spectrum(blurred(8))
    radius = frequencies(32, 32)
    roots = spectrum.roots(radius)
    assert torch.equal(roots, roots.transpose(0, 1))  # a transposed picture
    assert torch.equal(roots[1:], roots[1:].flip(0))  # a mirrored one
    assert not roots[radius >= 0.5].any()
    at_rings = spectrum.roots(torch.arange(8, dtype=torch.float64) / 16)
    assert torch.allclose(at_rings @ at_rings.mT, spectrum.power[:8])


# -------------------------------------------------------------------------------------------------------- isotropic noise


@pytest.fixture(scope="module")
def data() -> Tensor:
    return blurred(400)


@pytest.fixture(scope="module")
def noise(data: Tensor) -> Tensor:
    return isotropic_noise(measure_spectrum(data), Shape(3000, 16, 16), seeded())


def test_noise_has_the_datas_mean_and_the_covariance_of_its_channels(data, noise):
    assert noise.shape == (3000, 3, 16, 16)
    assert noise.dtype == torch.uint8
    expected, found = (torch.cov(as_floats(images).transpose(0, 1).flatten(1)) for images in (data, noise))
    assert torch.allclose(as_floats(noise).mean(dim=(0, 2, 3)), as_floats(data).mean(dim=(0, 2, 3)), atol=0.01)
    assert torch.allclose(found / found.trace(), expected / expected.trace(), atol=0.03)


def test_noise_has_the_datas_radial_spectrum(data, noise):
    expected, found = measure_spectrum(data).power, measure_spectrum(noise).power
    contrast = found[1:4].diagonal(dim1=1, dim2=2).sum() / expected[1:4].diagonal(dim1=1, dim2=2).sum()
    assert contrast <= 1.1
    for radius in range(4):  # beyond, these soft blobs have no power to speak of
        assert torch.allclose(found[radius], contrast * expected[radius], rtol=0.25)


def test_noise_knows_no_direction(data, noise):
    """The data is brighter above; of the noise, no two directions differ by more than chance."""

    def slopes(images: Tensor) -> Tensor:
        rows = as_floats(images).mean(dim=(1, 3)) @ torch.linspace(-1, 1, 16, dtype=torch.float64)
        columns = as_floats(images).mean(dim=(1, 2)) @ torch.linspace(-1, 1, 16, dtype=torch.float64)
        return torch.stack([rows, columns, rows.square() - columns.square()])

    errors = slopes(noise).std(dim=1) / math.sqrt(len(noise))
    assert (slopes(noise).mean(dim=1).abs() < 4 * errors).all()
    assert slopes(data)[0].mean() < -20 * slopes(data)[0].std() / 20
    down, right = ((as_floats(noise) - as_floats(noise).roll(1, axis)).square()[:, :, 1:, 1:].mean(dim=(1, 2, 3)) for axis in (2, 3))
    assert (down - right).mean().abs() < 4 * (down - right).std() / math.sqrt(len(noise))


def test_noise_does_not_go_on_at_the_opposite_edge(noise):
    first, second, last = (as_floats(noise)[..., column].flatten() for column in (0, 1, -1))
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack([first, last]))[0, 1].abs() < 0.1


def test_noise_is_hardly_clipped():
    flashy = (blurred(50) > 120).to(torch.uint8) * 255
    noise = isotropic_noise(measure_spectrum(flashy), Shape(200, 16, 16), seeded())
    assert ((noise == 0) | (noise == 255)).double().mean() < 0.005
    assert noise.double().std() > 30


def test_images_without_contrast_give_noise_without_contrast():
    gray = torch.full((4, 1, 8, 8), 90, dtype=torch.uint8)
    assert (isotropic_noise(measure_spectrum(gray), Shape(2, 8, 8), seeded()) == 90).all()


# ---------------------------------------------------------------------------------------------------------------- JPEG noise


@pytest.mark.parametrize("num_chs", [1, 3])
def test_jpeg_noise_is_isotropic_noise_after_a_round_trip(num_chs):
    spectrum = measure_spectrum(blurred(20, num_chs))
    found = jpeg_noise(spectrum, Shape(5, 16, 16), seeded())
    for image, original in zip(found, isotropic_noise(spectrum, Shape(5, 16, 16), seeded()), strict=True):
        file = io.BytesIO()
        pixels = original.permute(1, 2, 0).numpy()
        Image.fromarray(pixels if num_chs == 3 else pixels[..., 0]).save(file, "JPEG", quality=75, subsampling=2)  # 2: 4:2:0
        expected = np.array(Image.open(file)).reshape(16, 16, num_chs)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert not torch.equal(image, original)


# ----------------------------------------------------------------------------------------------------------- phase scrambling


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 12)])
def test_scrambled_phases_keep_amplitudes_mean_and_how_the_channels_go_together(height, width):
    images = 64 + blurred(6, height=height, width=width) // 4  # far from both ends of the 256 values
    found = phase_scrambled(images, seeded())
    before, after = (torch.fft.fft2(images.double()) for images in (images, found))
    assert (before.abs() - after.abs()).abs().max() < 4 * math.sqrt(height * width / 12)  # what rounding to integers does
    assert (before[..., 0, 0] - after[..., 0, 0]).abs().max() / (height * width) < 0.1
    strong = (before.abs().amin(dim=1) > 200) & (after.abs().amin(dim=1) > 200)
    strong[:, 0, 0] = False
    assert strong.sum() > 20
    for first, second in ((0, 1), (1, 2)):
        apart = [(waves[:, first] * waves[:, second].conj()).angle()[strong] for waves in (before, after)]
        assert torch.polar(torch.ones_like(apart[0]), apart[0] - apart[1]).real.min() > 0.98
    offsets = (after * before.conj())[:, 0].angle()[strong]
    assert torch.polar(torch.ones_like(offsets), offsets).mean().abs() < 0.4  # all around the circle


# ----------------------------------------------------------------------------------------------------------- shuffled patches


def patches_of(image: Tensor, side: int) -> list[bytes]:
    corners = [(top, left) for top in range(0, image.shape[1], side) for left in range(0, image.shape[2], side)]
    return [image[:, top : top + side, left : left + side].contiguous().numpy().tobytes() for top, left in corners]


@pytest.mark.parametrize(("height", "width", "side"), [(16, 16, 4), (64, 64, 8), (8, 12, 2)])
def test_patches_change_places_within_their_image_which_is_rolled(height, width, side):
    images = torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8, generator=seeded(1))
    found = shuffled_patches(images, seeded())
    assert patch_side(height, width) == side
    orders, offsets = set(), set()
    for image, original in zip(found, images, strict=True):
        before = patches_of(original, side)
        for down, right in ((i, j) for i in range(side) for j in range(side)):
            after = patches_of(image.roll((-down, -right), (1, 2)), side)
            if sorted(after) == sorted(before):
                orders.add(tuple(before.index(patch) for patch in after))
                offsets.add((down, right))
    assert len(orders) == 6
    assert tuple(range(len(before))) not in orders
    assert len(offsets) > 1


@pytest.mark.parametrize(("shape", "side"), [((32, 32), 8), ((224, 224), 8), ((8, 8), 2), ((28, 28), 7), ((227, 227), 1), ((9, 12), 1)])
def test_patches_cover_the_image(shape, side):
    assert patch_side(*shape) == patch_side(*reversed(shape)) == side


# ---------------------------------------------------------------------------------------------------------------------- all


def made(source: str, images: Tensor, seed: int) -> Tensor:
    if source in COPIES:
        return COPIES[source](images, seeded(seed))
    return NOISE[source](measure_spectrum(images), Shape(*images[:, 0].shape), seeded(seed))


def test_every_source_has_a_name():
    assert set(SOURCES) == {*NOISE, *COPIES}
    assert not NOISE.keys() & COPIES.keys()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("num_chs", "height", "width"), [(3, 8, 8), (1, 8, 8), (3, 9, 12)])
def test_every_source_is_drawn_from_its_generator_alone(source, num_chs, height, width):
    images = blurred(12, num_chs, height, width)
    before = images.clone(), torch.get_rng_state()
    first = made(source, images, 1)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, made(source, images, 1))
    assert not torch.equal(first, made(source, images, 2))
    assert torch.equal(images, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_spectrum_is_a_plain_value():
    assert Spectrum._fields == ("mean", "power", "side")
