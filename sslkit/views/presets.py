"""Views that papers train with, by name: numbers, each with its source.

Where a source is a program, its numbers are read from the program; our functions are torchvision's, not the program's. A size is that of
the source and can be changed by whoever uses a preset; the kernel of a blur does not change with it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Functions = Mapping[str, Mapping[str, Any]]


class Preset(NamedTuple):
    """A view by name: where it is from, and its functions in their order."""

    source: str
    functions: Functions


def _crop(size: int, smallest: float, largest: float = 1.0, **options: Any) -> Functions:
    return {"random_resized_crop": {"size": size, "scale": (smallest, largest), **options}}


def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> Functions:
    factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    return {"color_jitter": {**factors, "probability": 0.8}}


def _blur(probability: float) -> Functions:
    return {"gaussian_blur": {"kernel_size": 23, "sigma": (0.1, 2.0), "probability": probability}}


_FLIP: Functions = {"horizontal_flip": {"probability": 0.5}}
_GRAYSCALE: Functions = {"grayscale": {"probability": 0.2}}
_SOLARIZE: Functions = {"solarize": {"threshold": 128, "probability": 0.2}}
_BYOL: Functions = {**_crop(224, 0.08, interpolation="bicubic"), **_FLIP, **_jitter(0.4, 0.4, 0.2, 0.1), **_GRAYSCALE}
_DINO: Functions = {**_crop(224, 0.4, interpolation="bicubic"), **_FLIP, **_jitter(0.4, 0.4, 0.2, 0.1), **_GRAYSCALE}

PRESETS: Mapping[str, Preset] = {
    "simclr_cifar": Preset(
        "Chen et al. 2020 (arXiv:2002.05709) on CIFAR-10: google-research/simclr, README.md and data_util.py: strength 0.5, no blur",
        {**_crop(32, 0.08, interpolation="bicubic"), **_FLIP, **_jitter(0.4, 0.4, 0.4, 0.1), **_GRAYSCALE},
    ),
    "simclr": Preset(
        "Chen et al. 2020 (arXiv:2002.05709): google-research/simclr, data_util.py: strength 1, kernel of a tenth of the image",
        {**_crop(224, 0.08, interpolation="bicubic"), **_FLIP, **_jitter(0.8, 0.8, 0.8, 0.2), **_GRAYSCALE, **_blur(0.5)},
    ),
    "byol_1": Preset(
        "Grill et al. 2020 (arXiv:2006.07733), appendix B, first view: deepmind-research, byol/utils/augmentations.py and dataset.py",
        {**_BYOL, **_blur(1.0)},
    ),
    "byol_2": Preset(
        "Grill et al. 2020 (arXiv:2006.07733), appendix B, second view: deepmind-research, byol/utils/augmentations.py and dataset.py",
        {**_BYOL, **_blur(0.1), **_SOLARIZE},
    ),
    "dino_global": Preset(
        "Caron et al. 2021 (arXiv:2104.14294), first global crop: facebookresearch/dino, main_dino.py; Pillow's blur has no kernel size",
        {**_DINO, **_blur(1.0)},
    ),
    "dino_global_2": Preset(
        "Caron et al. 2021 (arXiv:2104.14294), second global crop: facebookresearch/dino, main_dino.py",
        {**_DINO, **_blur(0.1), **_SOLARIZE},
    ),
    "dino_local": Preset(
        "Caron et al. 2021 (arXiv:2104.14294), local crops: facebookresearch/dino, main_dino.py",
        {**_DINO, **_crop(96, 0.05, 0.4, interpolation="bicubic"), **_blur(0.5)},
    ),
    "mae": Preset(
        "He et al. 2021 (arXiv:2111.06377): facebookresearch/mae, main_pretrain.py",
        {**_crop(224, 0.2, interpolation="bicubic"), **_FLIP},
    ),
    "grayscale_medical": Preset(
        "unverified: sslkit's own choice, no published figure. MoCo v2 (Chen et al. 2020, arXiv:2003.04297) without what needs colour:"
        " saturation, hue and grayscale",
        {
            **_crop(224, 0.2),
            "color_jitter": {"brightness": 0.4, "contrast": 0.4, "probability": 0.8},
            "gaussian_blur": {"kernel_size": 23, "sigma": (0.1, 2.0), "probability": 0.5},
            **_FLIP,
        },
    ),
}
