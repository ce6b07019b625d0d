"""Write a trained backbone and its model card into recipes/weights: what load_backbone finds by its name.

python benchmarks/publish_weights.py runs/rotnet_cifar10_cpu --name rotnet_cifar10_cpu --data "CIFAR-10 (JPEG)"

The run's pretraining must be finished. When more of its stages are, the same command adds their metrics to the card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sslkit.contract.errors import SslkitError
from sslkit.run.publication import TrainingData, publish_backbone

WEIGHTS = Path(__file__).parents[1] / "recipes" / "weights"

_CIFAR10 = "CIFAR-10 (Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images): colour images of ten classes, 32 x 32 pixels"
_JPEG = (
    "re-encoded as JPEG (quality about 75, chroma 4:2:0). Accuracies are not exactly comparable with those on the original data. JPEG "
    "treats rows and columns differently, a small low-level cue for rotations that the original does not have"
)
_TERMS = (
    "The images of CIFAR-10 come from the web and carry no licence of their own; the dataset is in common use for research. The weights "
    "hold none of the images; whether what you do with a network trained on them is permitted is for you to judge."
)
DATA = {
    "CIFAR-10": TrainingData("CIFAR-10", f"{_CIFAR10}.", _TERMS, "uoft-cs/cifar10"),
    "CIFAR-10 (JPEG)": TrainingData("CIFAR-10 (JPEG)", f"{_CIFAR10}, {_JPEG}.", _TERMS, "uoft-cs/cifar10"),
}
"""What our runs are trained on, in the words of docs/results.md."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--stage", default="pretrain", help="that pretrained (default: pretrain)")
    parser.add_argument("--name", required=True, help="of the weights")
    parser.add_argument("--data", required=True, choices=DATA, help="what they were trained on")
    parser.add_argument("--note", default="", help="a sentence for the card")
    parser.add_argument("--commit", default="", help="of the sources, where the stage's artifact.json has none")
    parser.add_argument("--target", type=Path, default=WEIGHTS, help="the folder of the two files (default: recipes/weights)")
    arguments = parser.parse_args(argv)
    try:
        files = publish_backbone(
            arguments.run / arguments.stage,
            arguments.target,
            name=arguments.name,
            data=DATA[arguments.data],
            note=arguments.note,
            commit=arguments.commit,
        )
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{files.weights}: {files.weights.stat().st_size:,} bytes\n{files.card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
