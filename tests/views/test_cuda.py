"""The views on a GPU: the same images as on a CPU, without a wait in between."""

from typing import Any

import pytest
import torch

from sslkit import views
from sslkit.views.transform import compose
from tests.views.pixels import DTYPES, OPTIONS, distance, pictures, seeded

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

COMPOSED = [(getattr(views, name), options) for name, options in OPTIONS.items() if name != "multi_crop"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "multi_crop"])
def test_equals_the_cpu(name: str, dtype: torch.dtype):
    """With the draws of a generator of the CPU, within a rounding."""
    images, view = pictures(30, dtype=dtype), getattr(views, name)
    there: dict[str, Any] = {"generator": seeded()} if view.random else {}
    here: dict[str, Any] = {"generator": seeded()} if view.random else {}
    found = view(images.cuda(), **OPTIONS[name], **there)
    assert found.is_cuda
    assert distance(found.cpu(), view(images, **OPTIONS[name], **here)) <= (1 if dtype == torch.uint8 else 0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_waits_for_the_gpu(dtype: torch.dtype):
    images, generator = pictures(64, dtype=dtype).cuda(), torch.Generator("cuda").manual_seed(0)
    compose(COMPOSED, images, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        compose(COMPOSED, images, generator)
        views.multi_crop(images, **OPTIONS["multi_crop"], generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_generator_alone_decides():
    images = pictures(64).cuda()
    first, again = (compose(COMPOSED, images, torch.Generator("cuda").manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
