"""The views of evaluators: what a network sees of training and test images, and whether it can take that."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Size
from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.checks import Checked
from sslkit.contract.errors import OptionError
from sslkit.contract.images import ImageSpec
from sslkit.evaluators.heads import HeadKind, feature_shapes
from sslkit.training.options import TrainingOptions
from sslkit.views.view import View, views_of


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Checked):
    """The view of an evaluator that trains no classifier.

    Attributes:
        test_view: what the network sees of an image, without random functions; None: the image as it is.
    """

    test_view: View | None = None

    def __post_init__(self) -> None:
        if self.test_view is not None and (found := self.test_view.random):
            fix = "resize and center_crop are not; what is random belongs in a train_view"
            raise OptionError(f"test_view.{found[0]}", "is random, and images are measured once", fix=fix)

    def view(self, *, train: bool) -> View | None:
        """The view of training images, or that of test images."""
        return self.test_view

    def image_spec(self, data: ImageSpec) -> ImageSpec:
        """The images that a backbone which begins in this stage is built for: the views of the training images."""
        for option, view in views_of(self):
            view.check(data, option)
        return seen(self.view(train=True), data)

    def check_views(self, backbone: Backbone, layers: Sequence[str], image: ImageSpec, head: HeadKind = "linear") -> None:
        """Refuse views that cannot be made of such images, that the backbone cannot take, or for which ``head`` would need two shapes."""
        for option, view in views_of(self):
            view.check(image, option)
        train, test = (seen(self.view(train=train), image) for train in (True, False))
        shapes = [
            _shapes(option, backbone, layers, spec)
            for option, spec in {"train_view": train, "test_view": test}.items()
            if train != test or (option == "test_view" and spec[:2] != backbone.image[:2])
        ]
        for layer in layers if len(shapes) == 2 and all(shapes) else ():
            first, second = (tuple(found[layer]) for found in shapes)
            if first != second and (head, backbone.layer(layer).kind) in {("mlp", "map"), ("conv", "tokens")}:
                what = f"the head {head!r} needs features of one size, from training and test images"
                fix = "let train_view and test_view end in one size"
                raise OptionError("test_view", what, found=f"{first} and {second} of {layer}", fix=fix)


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(TrainingOptions, ViewOptions):
    """The options of every evaluator that trains a classifier.

    Attributes:
        train_view: what the network sees of a training image, drawn anew each time, after ``augment``; None: ``test_view``.
    """

    train_view: View | None = None

    def __post_init__(self) -> None:
        TrainingOptions.__post_init__(self)
        ViewOptions.__post_init__(self)

    @override
    def view(self, *, train: bool) -> View | None:
        return self.train_view if train and self.train_view is not None else self.test_view


def seen(view: View | None, image: ImageSpec) -> ImageSpec:
    """The spec of a view of such images; None: no view."""
    return image if view is None else view.image_spec(image)


def _shapes(option: str, backbone: Backbone, layers: Sequence[str], image: ImageSpec) -> dict[str, Size]:
    """The shapes of features of one image; empty where the network cannot compute on the meta device."""
    try:
        return feature_shapes(backbone, layers, image)
    except Exception as error:
        if backbone.mean.is_meta and (type(error) is NotImplementedError or "meta" in str(error)):
            return {}
        height, width = backbone.image[:2]
        what = f"the network cannot take images of {image.height} x {image.width} pixels ({' '.join(str(error).split())})"
        fix = "end the view with center_crop, in that size"
        raise OptionError(option, what, allowed=f"{height} x {width}, which it is built for", fix=fix) from error
