"""Networks and images to draw, without a run."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkit import Backbone, Dataset, FeatureInfo, ImageSet, ImageSpec, Split
from sslkit.report.pictures.networks import Network
from tests.contract.miniatures.backbones import TinyConv

IMAGE = ImageSpec(16, 16, "rgb", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Flat(Backbone):
    """One vector per image and no convolution: there is nothing spatial to look at."""

    feature_info = (FeatureInfo("mean", 3, 1, "vector"),)
    capabilities = frozenset({"vector"})

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.scale = nn.Parameter(torch.ones(3))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {layer: x.mean(dim=(-2, -1)) * self.scale for layer in layers}


def network(role: str = "pretrained", backbone: type[Backbone] = TinyConv, *, seed: int = 0, image: ImageSpec = IMAGE) -> Network:
    torch.manual_seed(seed)
    return Network(role, f"stage {seed}", backbone(image).eval())


class Watched(ImageSet):
    """Images, perhaps with other labels, that write down which of them are decoded."""

    def __init__(self, images: ImageSet, **changes: object) -> None:
        self.image, self.labels, self.classes, self.fingerprint = images.image, images.labels, images.classes, images.fingerprint
        vars(self).update(changes)
        self._images = images
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int]) -> Tensor:
        self.decoded += indices
        return self._images.read(indices)


class Splits(Dataset):
    """A dataset of these images."""

    def __init__(self, **splits: ImageSet | None) -> None:
        self.splits = splits

    def image(self) -> ImageSpec:
        return next((images.image for images in self.splits.values() if images is not None), IMAGE)

    def load(self, split: Split) -> ImageSet | None:
        return self.splits.get(split)
