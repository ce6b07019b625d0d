"""What is run and killed: small recipes that between them take every path on which something could be lost."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.io import write_png

_HEAD = """
device = "cpu"
log_every = 1
checkpoint_minutes = 0

[data]
name = "digits"

[backbone]
name = "nin"
num_blocks = 3
width = 0.05
"""

_PRETRAIN = """
[stages.pretrain]
task = { name = "rotnet" }
augment = { crop_padding = 1 }
epochs = 4
batch_size = 500
evaluate_every = 2
"""

_EVALUATORS = """
[stages.linear]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv1", "conv2"], epochs = 2, batch_size = 500 }

[stages.mlp]
weights = "pretrain"
evaluator = { name = "mlp_probe", layers = ["conv2"], hidden = 20, epochs = 2, batch_size = 500, augment = { crop_padding = 1 } }

[stages.conv]
weights = "pretrain"
evaluator = { name = "conv_probe", layers = ["conv1"], epochs = 2, batch_size = 500, augment = { horizontal_flip = true } }

[stages.knn]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv1", "conv3"], k = 5 }

[stages.quality]
weights = "pretrain"
evaluator = { name = "feature_quality", layers = ["conv2"] }

[stages.finetune]
weights = "pretrain"
evaluator = { name = "finetune", epochs = 2, batch_size = 500 }

[stages.supervised]
weights = "random"
evaluator = { name = "supervised", layer = "conv2", head = "mlp", epochs = 2, batch_size = 500 }

[stages.few]
weights = "pretrain"
[stages.few.evaluator]
name = "semi_supervised"
labels_per_class = [1, 5]
selection = "random"
num_subsets = 2
images_per_epoch = 150
layers = ["conv2"]
head = "linear"
epochs = 2
batch_size = 50

[stages.few_trained]
weights = "pretrain"
[stages.few_trained.evaluator]
name = "semi_supervised"
labels_per_class = [5]
images_per_epoch = 150
layers = ["conv3"]
freeze = false
epochs = 2
batch_size = 50
"""

_SWEEP = """
[stages.pretrain]
task = { name = "rotnet" }
epochs = 3
batch_size = 500
snapshot_epochs = [0, 1, 3]

[stages.probe]
weights = "pretrain@each"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 500 }

[sweep]
"backbone.num_blocks" = [3, 4]
"""

_ROLL_BACK = """
[stages.pretrain]
task = { name = "rotnet" }
augment = { crop_padding = 1 }
epochs = 4
batch_size = 200
optimizer = { name = "sgd", lr = 1e6 }
schedule = { name = "constant" }
on_nan = { retries = 12, lr_factor = 0.1 }

[stages.probe]
weights = "pretrain"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 2, batch_size = 500, clip_grad_norm = 0.5 }
"""

_IMAGES = """
[stages.pretrain]
task = { name = "rotnet" }
augment = { crop_padding = 2, horizontal_flip = true }
epochs = 3
batch_size = 16

[stages.conv]
weights = "pretrain"
evaluator = { name = "conv_probe", layers = ["conv1"], epochs = 2, batch_size = 16, augment = { crop_padding = 1 } }

[stages.finetune]
weights = "pretrain"
evaluator = { name = "finetune", epochs = 2, batch_size = 16 }
"""


_FOREIGN = """
device = "cpu"
log_every = 1
checkpoint_minutes = 0
observers = [{ name = "survival.foreign:Draws" }]

[data]
name = "survival.foreign:Stripes"

[backbone]
name = "nin"
num_blocks = 3
width = 0.05

[stages.pretrain]
task = { name = "survival.foreign:Follow" }
optimizer = { name = "survival.foreign:Averaged" }
schedule = { name = "survival.foreign:Sawtooth" }
epochs = 3
batch_size = 16

[stages.probes]
weights = "pretrain"
evaluator = { name = "survival.foreign:TwoProbes" }

[stages.knn]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv2"], k = 5 }
"""


class Variant(NamedTuple):
    """One recipe of the suite.

    Attributes:
        text: the recipe, after its name.
        prepare: makes the files that it needs, in the folder of the recipe.
        streamed: images are decoded by workers as they are needed, not kept in memory.
    """

    text: str
    prepare: Callable[[Path], None] = lambda _folder: None
    streamed: bool = False

    def write(self, folder: Path, name: str) -> Path:
        """Write the recipe and what it needs; returns the recipe's path."""
        folder.mkdir(parents=True, exist_ok=True)
        self.prepare(folder)
        path = folder / f"{name}.toml"
        path.write_text(f'name = "{name}"\n{self.text.replace("IMAGES", str(folder / "images"))}', encoding="utf-8")
        return path


def _draw_images(folder: Path) -> None:
    """60 coloured noises of two classes to train on, 20 to test on."""
    generator = torch.Generator().manual_seed(0)
    for split, number in (("train", 60), ("test", 20)):
        for index in range(number):
            path = folder / "images" / split / f"class{index % 2}" / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 128, (3, 40, 40), generator=generator) + 127 * (index % 2) * torch.eye(3)[:, :1, None].long()
            write_png(pixels.to(torch.uint8), str(path))


def deterministic_on(device: str) -> Variant:
    """Small enough for a minute on any device. Not compiled: each process would compile it again."""
    settings = f'device = "{device}"\ndeterministic = true\ncompile = false'
    probes = """
[stages.conv]
weights = "pretrain"
evaluator = { name = "conv_probe", layers = ["conv2"], epochs = 1, batch_size = 500, augment = { crop_padding = 1 } }

[stages.knn]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv2"] }
"""
    return Variant(_HEAD.replace('device = "cpu"', settings) + _PRETRAIN + probes)


VARIANTS = {
    "evaluators": Variant(_HEAD + _PRETRAIN + _EVALUATORS),
    "sweep": Variant(_HEAD + _SWEEP),
    "roll_back": Variant(_HEAD + _ROLL_BACK),
    "images": Variant(
        _HEAD.replace('name = "digits"', 'name = "image_folder"\nroot = "IMAGES"\nimage_size = 16') + _IMAGES, _draw_images, streamed=True
    ),
    "foreign": Variant(_FOREIGN, streamed=True),
    "float32": Variant('precision = "float32"' + _HEAD + _PRETRAIN),
}
"""By name."""
