import pytest
import torch

import sslkit.training.features as module
from sslkit.data.loader import Loader
from sslkit.training.features import evaluating, extract_features
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.images import tiny_images

CPU = torch.device("cpu")


def test_evaluating_puts_every_module_back_into_its_own_mode():
    backbone = TinyConv(tiny_images(1).image).train()
    backbone.stem.eval()
    before = {name: child.training for name, child in backbone.named_modules()}
    with evaluating(backbone):
        assert not any(child.training for child in backbone.modules())
    assert {name: child.training for name, child in backbone.named_modules()} == before
    assert before["stem.1"] is False
    assert before["body.1"] is True


def test_features_are_of_every_image_in_index_order():
    images = tiny_images(11)
    for backbone in (TinyConv(images.image).train(), TinyTokens(images.image).train()):
        state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        features = extract_features(backbone, Loader(images, batch_size=4, device=CPU), backbone.layer_names, None)
        assert backbone.training
        assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
        backbone.eval()
        for info in backbone.feature_info:
            maps = torch.cat([backbone(images.read([i]), [info.name])[info.name] for i in range(11)])
            naive = maps.flatten(2).mean(dim=2) if info.kind == "map" else maps.mean(dim=1)
            torch.testing.assert_close(features[info.name], naive.detach())
            assert not features[info.name].requires_grad


def test_features_under_autocast_are_float32():
    images = tiny_images(5)
    backbone, loader = TinyConv(images.image), Loader(images, batch_size=4, device=CPU)
    features, exact = (extract_features(backbone, loader, ["body"], autocast)["body"] for autocast in (torch.bfloat16, None))
    assert features.dtype == torch.float32
    assert not torch.equal(features, exact)
    torch.testing.assert_close(features, exact, rtol=0.05, atol=0.05)


def test_features_are_fetched_a_few_batches_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """Each time a GPU waits; on the other hand its memory may not hold those of all images."""
    images = tiny_images(11)
    backbone = TinyConv(images.image)
    fetch, fetched = module._fetch, []
    monkeypatch.setattr(module, "_fetch", lambda *arguments: fetched.append(True) or fetch(*arguments))
    found = []
    for waiting, times in ((64 * 2**20, 1), (1, 4), (2 * 4 * (4 + 8) * 4, 2)):  # bytes of two batches of four, float32
        monkeypatch.setattr(module, "_WAITING", waiting)
        fetched.clear()
        found.append(extract_features(backbone, Loader(images, batch_size=4, device=CPU), ["stem", "body"], None))
        assert len(fetched) == times
    for layer, size in {"stem": 4, "body": 8}.items():
        assert found[0][layer].shape == (11, size)
        assert all(torch.equal(other[layer], found[0][layer]) for other in found)
