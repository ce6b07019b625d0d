import copy
import dataclasses
import functools
import logging
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from sslkit.backbones.from_timm import TimmBackbone, hub_file
from sslkit.contract.backbone import FeatureInfo
from sslkit.contract.errors import BackboneError, OptionError
from sslkit.contract.images import ImageSpec

STAGES = tuple(f"stages_{i}" for i in range(4))
BLOCKS = tuple(f"blocks_{i}" for i in range(12))
LAYERS = {
    "convnext_atto": STAGES,
    "mobilenetv3_small_050": ("bn1", "blocks_0", "blocks_1", "blocks_3", "blocks_5"),
    "regnetx_002": ("stem", "s1", "s2", "s3", "s4"),
    "resnet18": ("act1", "layer1", "layer2", "layer3", "layer4"),
    "vit_tiny_patch16_224": (*BLOCKS, "norm", "pre_logits"),
}
BEFORE_1_0_31 = not hasattr(timm.models.vgg.VGG, "forward_intermediates")  # then some norms of heads stay, too


def spec(height: int, width: int | None = None, num_chs: int = 3) -> ImageSpec:
    color = "rgb" if num_chs == 3 else "gray"
    return ImageSpec(height, height if width is None else width, color, (0.5,) * num_chs, (0.25,) * num_chs)


CIFAR = spec(32)


@functools.cache
def on_meta(model: str, image: ImageSpec = CIFAR, **options) -> TimmBackbone:
    with torch.device("meta"):
        return TimmBackbone(image, model=model, **options)


@functools.cache
def built(model: str) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(spec(64, 32), model=model).eval()


@contextmanager
def watching(network: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """What comes out of some of a network's modules, in the order in which they run."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in modules:

            def keep(_module: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
                outputs[name] = output.clone()

            stack.enter_context(network.get_submodule(name).register_forward_hook(keep))
        yield outputs


# ------------------------------------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize("model", LAYERS)
def test_names_of_the_layers_are_stable_and_without_dots(model):
    backbone = on_meta(model)
    assert backbone.layer_names == LAYERS[model]
    vit = model.startswith("vit")
    assert backbone.capabilities == ({"tokens", "vector", "masked_encode"} if vit else {"map"})
    assert [info.kind for info in backbone.feature_info] == (["tokens"] * 13 + ["vector"] if vit else ["map"] * len(LAYERS[model]))


@pytest.mark.parametrize("image", [CIFAR, spec(64, 96, num_chs=1)], ids=["32x32x3", "64x96x1"])
@pytest.mark.parametrize("model", LAYERS)
def test_features_come_out_as_described(model, image):
    check_shapes(on_meta(model, image))


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_features_of_imagenet_size_come_out_as_described(model):
    check_shapes(on_meta(model, spec(224)))


def check_shapes(backbone: TimmBackbone) -> None:
    height, width = backbone.image[:2]
    features = backbone.extract(torch.zeros(2, backbone.image.num_chs, height, width, device="meta"), backbone.layer_names)
    for info in backbone.feature_info:
        rows, columns = height // info.reduction, width // info.reduction
        shapes = {"map": (info.num_chs, rows, columns), "tokens": (rows * columns, info.num_chs), "vector": (info.num_chs,)}
        assert features[info.name].shape == (2, *shapes[info.kind]), info


@pytest.mark.parametrize("model", LAYERS)
def test_features_equal_what_comes_out_of_timms_modules(model):
    backbone = built(model)
    vit = model.startswith("vit")
    size: Any = {"img_size": (64, 32)} if vit else {}
    plain: Any = timm.create_model(model, num_classes=0, **size).eval()
    assert not plain.load_state_dict(backbone.network.state_dict(), strict=False).unexpected_keys
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad(), watching(plain, [entry["module"] for entry in plain.feature_info]) as outputs:
        pooled, features = plain(x), backbone.extract(x, backbone.layer_names)
        expected = {name.replace(".", "_"): output[:, 1:] if vit else output for name, output in outputs.items()}
        if vit:
            tokens = plain.forward_features(x)
            expected |= {"norm": tokens[:, 1:], "pre_logits": pooled}
            torch.testing.assert_close(pooled, tokens[:, 0])  # which is the class token
    assert features.keys() == expected.keys()
    for layer, value in expected.items():
        torch.testing.assert_close(features[layer], value, msg=lambda message, layer=layer: f"{layer}: {message}")


def test_tokens_are_row_major():
    backbone = built("vit_tiny_patch16_224")
    images = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        before = backbone.network.patch_embed(images).flatten(1, 2)
        images[:, :, 16:32, 16:32] = 0  # row 1, column 1 of 4 x 2 patches
        changed = (backbone.network.patch_embed(images).flatten(1, 2) - before).abs().sum(dim=2)[0] > 0
        assert changed.nonzero().flatten().tolist() == [3]
        maps = backbone.network.forward_intermediates(images, indices=[2], output_fmt="NCHW", intermediates_only=True)[0]
        torch.testing.assert_close(backbone.extract(images, ["blocks_2"])["blocks_2"].transpose(1, 2).unflatten(2, (4, 2)), maps)


@pytest.mark.parametrize(
    ("model", "layer", "modules"),
    [
        ("resnet18", "layer2", ["layer2", "layer3", "layer4"]),
        ("vit_tiny_patch16_224", "blocks_3", ["blocks.3", "blocks.4", "norm"]),
        ("convnext_atto", "stages_1", ["stages.1", "stages.2"]),
        ("mobilenetv3_small_050", "blocks_1", ["blocks.1", "blocks.2"]),
        ("regnetx_002", "stem", ["stem", "s1"]),
    ],
)
def test_extract_stops_at_the_deepest_layer_asked_for(model, layer, modules):
    with torch.no_grad(), watching(built(model).network, modules) as ran:
        assert list(built(model).extract(torch.randn(2, 3, 64, 32), [layer])) == [layer]
    assert list(ran) == modules[:1]


def test_layers_come_in_the_order_asked_for_and_may_repeat():
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        for model, layers in (("resnet18", ["layer3", "act1", "layer3"]), ("vit_tiny_patch16_224", ["pre_logits", "blocks_1", "norm"])):
            features = built(model).extract(x, layers)
            assert list(features) == list(dict.fromkeys(layers))
            for layer in layers:
                torch.testing.assert_close(features[layer], built(model).extract(x, [layer])[layer], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------------- sizes


def test_a_resnet_takes_images_of_any_size():
    features = on_meta("resnet18").extract(torch.zeros(2, 3, 75, 40, device="meta"), ["layer4"])
    assert features["layer4"].shape == (2, 512, 3, 2)


def test_a_vit_takes_multiples_of_its_patch_and_interpolates_its_positions():
    backbone = built("vit_tiny_patch16_224")
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        tokens = backbone.extract(x, ["norm"])["norm"]
        assert tokens.shape == (2, 6, 192)
        larger = copy.deepcopy(backbone.network)
        larger.set_input_size((32, 48))  # timm's own way for good
        torch.testing.assert_close(tokens, larger.forward_features(x)[:, 1:])
    message = r"^this VisionTransformer cannot take these images; found '32 x 40'; allowed: multiples of 16$"
    with pytest.raises(BackboneError, match=message):
        backbone.extract(torch.randn(2, 3, 32, 40), ["norm"])


def test_an_architecture_of_fixed_size_takes_no_other():
    backbone = on_meta("gmixer_12_224")
    with pytest.raises(BackboneError, match="found '64 x 64'; allowed: 32 x 32, which it was built for"):
        backbone.extract(torch.zeros(1, 3, 64, 64, device="meta"), ["blocks_0"])


@pytest.mark.parametrize(
    ("model", "image", "reason"),
    [
        ("vit_tiny_patch16_224", spec(40), r"40 x 40 pixels and 3 channels \(.*divisible by patch size \(16\)"),
        ("ese_vovnet19b_dw", spec(16, num_chs=1), r"16 x 16 pixels and 1 channel \(.*too small"),
    ],
)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_images_that_the_model_cannot_take(model, image, reason, device):
    with torch.device(device), pytest.raises(OptionError, match=rf"^model: {model} cannot take images of {reason}") as caught:
        TimmBackbone(image, model=model)
    assert caught.value.option == "model"
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("choose another model, or another size of the images")


def test_a_model_whose_features_timm_does_not_give_out(monkeypatch):
    monkeypatch.delattr(timm.models.vgg.VGG, "forward_intermediates", raising=False)
    with pytest.raises(OptionError) as caught, torch.device("meta"):
        TimmBackbone(CIFAR, model="vgg11")
    assert str(caught.value) == (
        f"model: timm {timm.__version__} cannot extract features from vgg11; upgrade timm, or choose another model"
    )


# ----------------------------------------------------------------------------------------------------------------- weights


def test_the_seed_gives_the_weights_that_timm_draws():
    torch.manual_seed(3)
    backbone = TimmBackbone(CIFAR, model="mobilenetv3_small_050")
    torch.manual_seed(3)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict()
    assert all(module.training for module in backbone.modules())
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, plain[name]), name


def test_nothing_is_drawn_or_printed_on_the_meta_device(capfd, caplog):
    for name in ("timm", "huggingface_hub"):
        caplog.set_level(logging.INFO, name)
    state = torch.get_rng_state()
    with torch.device("meta"):
        backbone = TimmBackbone(CIFAR, model="test_vit", pretrained=True)  # not fetched
    assert all(tensor.is_meta for tensor in (*backbone.parameters(), *backbone.buffers()))
    assert all(module.training for module in backbone.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert [logging.getLogger(name).level for name in ("timm", "huggingface_hub")] == [logging.INFO] * 2  # as before
    assert capfd.readouterr() == ("", "")


def test_state_is_restored_and_copied():
    torch.manual_seed(0)
    one, other = (TimmBackbone(CIFAR, model="test_vit").eval() for _ in range(2))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(one.embed(images), other.embed(images))
        other.load_state_dict(one.state_dict())
        assert torch.equal(one.embed(images), other.embed(images))
        assert torch.equal(one.embed(images), copy.deepcopy(one).embed(images))


vgg11 = pytest.param("vgg11", marks=pytest.mark.skipif(BEFORE_1_0_31, reason="timm gives out the features of vgg11 from 1.0.31 on"))


@pytest.mark.parametrize("model", [*LAYERS, vgg11, "swin_tiny_patch4_window7_224", "test_vit"])
def test_every_parameter_has_a_part_in_the_deepest_layer(model):
    backbone = on_meta(model)
    deepest = backbone.extract(torch.zeros(2, 3, 32, 32, device="meta"), backbone.layer_names[-1:])[backbone.layer_names[-1]]
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    gradients = torch.autograd.grad(deepest.sum(), parameters, allow_unused=True)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    assert unused <= ({"network.head.norm.weight", "network.head.norm.bias"} if BEFORE_1_0_31 else set())


# -------------------------------------------------------------------------------------------------------------- pretrained


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """The cache of the Hugging Face hub, empty, and no way to the hub."""

    def get_hf_file_metadata(_url: str):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", get_hf_file_metadata)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("hub_cache")
def test_weights_that_cannot_be_fetched(capfd):
    with pytest.raises(BackboneError) as caught:
        TimmBackbone(CIFAR, model="test_vit", pretrained=True)
    assert str(caught.value) == (
        "the pretrained weights of timm's test_vit could not be fetched (no route to host); set pretrained = false,"
        " or put the weights into the cache of the Hugging Face hub (HF_HUB_CACHE)"
    )
    assert capfd.readouterr() == ("", "")


def cached(cache: Path, model: str) -> Path:
    """The folder of a model in the hub's cache."""
    folder = cache / f"models--timm--{model}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40)


def test_weights_come_from_the_cache(hub_cache, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: pytest.fail("timm looked for itself"))
    torch.manual_seed(0)
    weights = timm.create_model("test_vit").state_dict()  # 160 x 160 images, with a classifier
    safetensors.torch.save_file(weights, cached(hub_cache, "test_vit.r160_in1k") / "model.safetensors")
    backbone = TimmBackbone(spec(160, num_chs=1), model="test_vit.r160_in1k", pretrained=True)
    state = backbone.network.state_dict()
    torch.testing.assert_close(state["blocks.3.attn.qkv.weight"], weights["blocks.3.attn.qkv.weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["pos_embed"], weights["pos_embed"], rtol=0, atol=0)
    torch.testing.assert_close(state["patch_embed.proj.weight"], weights["patch_embed.proj.weight"].sum(dim=1, keepdim=True))
    assert not any(name.startswith("head") for name in state)


class Wicked:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_nothing_is_unpickled(hub_cache, tmp_path, monkeypatch):
    place = cached(hub_cache, "test_vit.r160_in1k")
    for name in ("pytorch_model.bin", "model.pth", "model.safetensors.bin"):
        torch.save({"weight": Wicked(tmp_path / "unpickled")}, place / name)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(BackboneError, match="could not be fetched"):
        TimmBackbone(CIFAR, model="test_vit.r160_in1k", pretrained=True)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _url: None)  # the hub answers ...

    def hf_hub_download(**_place: object) -> str:
        raise huggingface_hub.utils.EntryNotFoundError("404")  # ... that it has no such file

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    message = r"\(timm/test_vit\.r160_in1k has no model\.safetensors, and nothing else is read, as it would "
    with pytest.raises(BackboneError, match=message):
        TimmBackbone(CIFAR, model="test_vit.r160_in1k", pretrained=True)
    torch.save({"weight": Wicked(tmp_path / "unpickled")}, place / "model.safetensors")  # a pickle by a better name
    with pytest.raises(BackboneError, match="could not be fetched"):
        TimmBackbone(CIFAR, model="test_vit.r160_in1k", pretrained=True)
    assert not (tmp_path / "unpickled").exists()


def test_every_model_with_weights_is_read_from_safetensors_or_refused():
    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained()}
    assert len(configs) > 1000
    names = {name: hub_file(config) for name, config in configs.items()}
    refused = {name for name, file in names.items() if not file}
    assert all(file.endswith(".safetensors") for file in names.values() if file)
    assert refused == {name for name, config in configs.items() if not config.hf_hub_id or str(config.hf_hub_filename).endswith(".npz")}
    for name in sorted(refused)[:3]:
        message = f"^pretrained: timm's weights for {re.escape(name)} would have to be unpickled, which may run "
        with pytest.raises(OptionError, match=message):
            on_meta(name, pretrained=True)


@pytest.mark.parametrize(
    ("given", "file"),
    [
        (None, "model.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
        ("other.bin", "other.safetensors"),
        ("own.safetensors", "own.safetensors"),
        ("weights.npz", ""),
        ("weights.pth", ""),
    ],
)
def test_the_file_is_that_which_timm_prefers(given, file):
    config = timm.models.PretrainedCfg(hf_hub_id="timm/x", hf_hub_filename=given)
    assert hub_file(config) == file
    assert hub_file(dataclasses.replace(config, hf_hub_id=None)) == ""


@pytest.mark.parametrize("source", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "HF-HUB:a/b", "local-dir:{}", "{}"])
def test_a_model_is_no_repository_and_no_folder(source, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10}')
    torch.save({"weight": Wicked(tmp_path / "unpickled")}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was tried"))
    model = source.format(tmp_path)
    for pretrained in (False, True):
        with pytest.raises(OptionError, match=r"^model: timm .* has no such model; found '"):
            TimmBackbone(CIFAR, model=model, pretrained=pretrained)
    assert not (tmp_path / "unpickled").exists()


def test_models_without_weights():
    model = next(name for name in timm.list_models("resne*") if not getattr(timm.get_pretrained_cfg(name), "has_weights", True))
    with pytest.raises(OptionError, match=rf"^pretrained: timm has no weights for {model}; set pretrained = false$"):
        on_meta(model, pretrained=True)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("resnet18.a1_in2k", "did you mean 'resnet18.a1_in1k'"),
        ("?", "timm.list_models() lists all"),
    ],
)
def test_unknown_models(name, near):
    with pytest.raises(OptionError, match=rf"^model: timm .* has no such model; found '{re.escape(name)}'; {re.escape(near)}"):
        on_meta(name)


# -------------------------------------------------------------------------------------------------------------- cifar_stem


def test_cifar_stem_keeps_the_size_of_small_images():
    backbone = on_meta("resnet18", cifar_stem=True)
    assert backbone.feature_info == (
        FeatureInfo("act1", 64, 1),
        FeatureInfo("layer1", 64, 1),
        FeatureInfo("layer2", 128, 2),
        FeatureInfo("layer3", 256, 4),
        FeatureInfo("layer4", 512, 8),
    )
    check_shapes(backbone)
    assert sum(p.numel() for p in backbone.parameters()) == 11_168_832  # the usual 11,173,962 for CIFAR-10, less 512 * 10 + 10


def test_cifar_stem_is_one_3x3_convolution_of_stride_1():
    torch.manual_seed(0)
    backbone = TimmBackbone(spec(8, num_chs=1), model="resnet18", cifar_stem=True).eval()
    x = torch.randn(2, 1, 8, 8)
    features = backbone.extract(x, ["act1", "layer1"])
    weight = backbone.network.conv1.weight
    assert weight.shape == (64, 1, 3, 3)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.15)  # as timm draws the other convolutions
    act1 = nn.functional.conv2d(x, weight, padding=1).div(math.sqrt(1 + 1e-5)).relu()
    torch.testing.assert_close(features["act1"], act1)
    torch.testing.assert_close(features["layer1"], backbone.network.layer1(act1))  # no pooling in between


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "convnext_atto", "regnetx_002", "resnet26d"])
def test_cifar_stem_is_refused_where_there_is_no_such_stem(model):
    message = rf"^cifar_stem: {model} has no 7x7 convolution and max-pooling to replace; allowed: plain ResNets, such as resnet18; set cifar_stem = false$"
    with pytest.raises(OptionError, match=message):
        on_meta(model, cifar_stem=True)


def test_cifar_stem_is_refused_with_pretrained_weights():
    message = r"^cifar_stem: pretrained weights do not fit this stem; set pretrained = false or cifar_stem = false$"
    with pytest.raises(OptionError, match=message):
        on_meta("resnet18", cifar_stem=True, pretrained=True)


# ----------------------------------------------------------------------------------------------------------- masked_encode


class Keep(nn.Module):
    """What timm runs between its position embedding and its first block: here, a selection of patches."""

    def __init__(self, keep: Tensor, num_prefix: int) -> None:
        super().__init__()
        self.keep, self.num_prefix = keep, num_prefix

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, self.num_prefix :]
        kept = torch.stack([patches[n, positions] for n, positions in enumerate(self.keep)])
        return torch.cat([x[:, : self.num_prefix], kept], dim=1)


@pytest.mark.parametrize("size", [(64, 32), (32, 96)], ids=["built_for", "other_size"])
@pytest.mark.parametrize(
    "model",
    ["test_vit", "test_vit2", "deit3_small_patch16_224", "vit_base_patch16_clip_224"],
    ids=["class_token", "register", "positions_of_patches_alone", "norm_pre"],
)
def test_masked_encode_runs_the_blocks_on_the_patches_kept(model, size):
    if model not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {model}")
    backbone = small(model)
    images = torch.rand(2, 3, *size)
    num_patches = size[0] * size[1] // 256
    keep = torch.stack([torch.randperm(num_patches)[: num_patches // 2] for _ in range(2)])
    network = copy.deepcopy(backbone.network)
    network.patch_drop = Keep(keep, network.num_prefix_tokens)
    with torch.no_grad():
        expected = network.forward_features(backbone.prepare(images))[:, network.num_prefix_tokens :]
        torch.testing.assert_close(backbone.masked_encode(images, keep), expected)
        everything = torch.arange(num_patches).expand(2, -1)
        torch.testing.assert_close(backbone.masked_encode(images, everything), backbone(images, ["norm"])["norm"])


@functools.cache
def small(model: str) -> TimmBackbone:
    """Two blocks are enough, with positions that differ; drawing all weights of a large ViT would take seconds."""
    backbone = copy.deepcopy(on_meta(model, spec(64, 32)))
    backbone.network.blocks = backbone.network.blocks[:2]
    backbone.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.05)
    backbone.mean.fill_(0.5)
    backbone.std.fill_(0.25)
    return backbone.eval()


@pytest.mark.slow
def test_masked_encode_is_one_graph():
    backbone = small("test_vit")
    encode = torch.compile(backbone.masked_encode, backend="eager", fullgraph=True)
    for size in ((64, 32), (32, 32)):  # of another size, positions are interpolated
        images, keep = torch.rand(2, 3, *size), torch.tensor([[1], [0]])
        with torch.no_grad():
            torch.testing.assert_close(encode(images, keep), backbone.masked_encode(images, keep))


def test_masked_encode_checks_the_size_too():
    with pytest.raises(BackboneError, match="found '40 x 32'; allowed: multiples of 16"):
        on_meta("test_vit").masked_encode(torch.zeros(1, 3, 40, 32, device="meta"), torch.zeros(1, 1, dtype=torch.long, device="meta"))


@pytest.mark.parametrize("model", ["resnet18", "deit_tiny_distilled_patch16_224"])
def test_masked_encode_is_refused_by_networks_that_cannot(model):
    backbone = on_meta(model)
    assert "masked_encode" not in backbone.capabilities
    with pytest.raises(BackboneError, match="TimmBackbone has no masked_encode"):
        backbone.masked_encode(torch.zeros(1, 3, 32, 32, device="meta"), torch.zeros(1, 1, dtype=torch.long, device="meta"))


# ---------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet18", "patch_size": 8}, "patch_size: resnet18 takes no such option; found 8; leave it out"),
        ({"model": "mixer_s16_224", "patch_size": 8}, "patch_size: mixer_s16_224 takes no such option; found 8"),
        ({"model": "densenet121", "drop_path_rate": 0.1}, "drop_path_rate: densenet121 takes no such option; found 0.1"),
        ({"model": "test_vit", "patch_size": 0}, "patch_size: must be positive; found 0"),
        (
            {"model": "test_vit", "drop_path_rate": 1.0},
            "drop_path_rate: must be a probability; found 1.0; allowed: 0 <= drop_path_rate < 1",
        ),
        ({"model": "test_vit", "patch_size": 7}, "Input height (64) should be divisible by patch size (7)"),
        ({"model": "resnet18", "in_chans": 13}, "in_chans: the images have another number of channels; found 13; allowed: 3"),
    ],
)
def test_options_that_a_model_does_not_take(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        on_meta(options.pop("model"), spec(64), **options)


@pytest.mark.parametrize(
    ("model", "patch_size", "reduction"), [("test_vit", 8, 8), ("swin_tiny_patch4_window7_224", 2, 2), ("convnext_tiny", 2, 4)]
)
def test_smaller_patches(model, patch_size, reduction):
    backbone = on_meta(model, spec(64), patch_size=patch_size)
    assert backbone.feature_info[0].reduction == reduction
    size = backbone(torch.zeros(2, 3, 64, 64, device="meta", dtype=torch.uint8), [backbone.layer_names[0]])[backbone.layer_names[0]].shape
    assert size[1] == (64 // reduction) ** 2 if backbone.feature_info[0].kind == "tokens" else size[2] == 64 // reduction


def test_stochastic_depth_grows_to_the_deepest_block():
    blocks = on_meta("test_vit", CIFAR, drop_path_rate=0.3).network.blocks
    assert blocks[-1].drop_path2.drop_prob == pytest.approx(0.3)
    assert isinstance(on_meta("test_vit", CIFAR).network.blocks[-1].drop_path2, torch.nn.Identity)


BANDS = ImageSpec(32, 32, None, (0.5,) * 13, (0.25,) * 13)


@pytest.mark.parametrize("model", ["resnet18", "test_vit", "test_convnext"])
def test_any_number_of_bands(model):
    backbone = TimmBackbone(BANDS, model=model, in_chans=13)
    features = backbone.embed(torch.randint(0, 256, (2, 13, 32, 32), dtype=torch.uint8))
    assert features.isfinite().all()
    with pytest.raises(BackboneError, match=r"^this backbone is built for images of 13 bands; found '3 channels'; allowed: 13$"):
        backbone.embed(torch.zeros(2, 3, 32, 32))


def adapted(weights: torch.Tensor, num_chs: int) -> torch.Tensor:
    """timm's way with other numbers of channels: repeat the three filters in turn, and keep the sum of the weights."""
    return torch.stack([weights[:, index % 3] for index in range(num_chs)], dim=1) * (3 / num_chs)


def test_pretrained_filters_are_repeated_for_bands(hub_cache):
    torch.manual_seed(0)
    weights = timm.create_model("test_vit").state_dict()
    safetensors.torch.save_file(weights, cached(hub_cache, "test_vit.r160_in1k") / "model.safetensors")
    state = TimmBackbone(BANDS._replace(height=160, width=160), model="test_vit.r160_in1k", pretrained=True).network.state_dict()
    torch.testing.assert_close(state["patch_embed.proj.weight"], adapted(weights["patch_embed.proj.weight"], 13))


@pytest.mark.slow
def test_real_weights_are_adapted_to_bands(hub_cache):
    file = Path(os.environ.get("SSLKIT_PRETRAINED", ""))
    if not file.is_file():
        pytest.skip("SSLKIT_PRETRAINED names no file: the weights of tf_efficientnet_lite0 in safetensors")
    (cached(hub_cache, "tf_efficientnet_lite0.in1k") / "model.safetensors").symlink_to(file)
    weights = safetensors.torch.load_file(file)
    backbone = TimmBackbone(BANDS, model="tf_efficientnet_lite0", pretrained=True).eval()
    torch.testing.assert_close(backbone.network.state_dict()["conv_stem.weight"], adapted(weights["conv_stem.weight"], 13))
    assert backbone.embed(torch.randint(0, 256, (2, 13, 32, 32), dtype=torch.uint8)).isfinite().all()
