"""The core's own plugin: what ships with sslkit, offered through the same hooks as everybody else's classes. Nobody imports it."""

from sslkit.backbones.from_timm import TimmBackbone
from sslkit.backbones.nin import NIN
from sslkit.catalog.discovery import hookimpl
from sslkit.contract.backbone import Backbone
from sslkit.contract.evaluator import Evaluator
from sslkit.contract.images import Dataset
from sslkit.contract.training import OptimizerFactory, Schedule
from sslkit.data.digits import Digits
from sslkit.data.image_folder import ImageFolder
from sslkit.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST
from sslkit.evaluators.feature_quality import FeatureQuality
from sslkit.evaluators.few_labels import SemiSupervised
from sslkit.evaluators.finetune import FineTune, Supervised
from sslkit.evaluators.knn import KNN
from sslkit.evaluators.probes import ConvProbe, LinearProbe, MLPProbe
from sslkit.training.optimizers import LARS, SGD, Adam, AdamW
from sslkit.training.schedules import Constant, Cosine, MultiStep


@hookimpl
def backbones() -> dict[str, type[Backbone]]:
    """Network in Network, and every network of timm."""
    return {"nin": NIN, "timm": TimmBackbone}


@hookimpl
def evaluators() -> dict[str, type[Evaluator]]:
    """Probes on frozen features, and training of the whole network with labels."""
    return {
        "conv_probe": ConvProbe,
        "feature_quality": FeatureQuality,
        "finetune": FineTune,
        "knn": KNN,
        "linear_probe": LinearProbe,
        "mlp_probe": MLPProbe,
        "semi_supervised": SemiSupervised,
        "supervised": Supervised,
    }


@hookimpl
def datasets() -> dict[str, type[Dataset]]:
    """The usual small sets, folders of images, and scikit-learn's digits, which need no download."""
    return {
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "digits": Digits,
        "fashion_mnist": FashionMNIST,
        "image_folder": ImageFolder,
        "mnist": MNIST,
        "stl10": STL10,
        "svhn": SVHN,
    }


@hookimpl
def optimizers() -> dict[str, type[OptimizerFactory]]:
    """Those of torch, and LARS."""
    return {"adam": Adam, "adamw": AdamW, "lars": LARS, "sgd": SGD}


@hookimpl
def schedules() -> dict[str, type[Schedule]]:
    """Factors on the base learning rate."""
    return {"constant": Constant, "cosine": Cosine, "step": MultiStep}
