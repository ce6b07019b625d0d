"""How much of feature space a backbone uses, judged without labels: RankMe and alpha-ReQ."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import OptionError
from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
from sslkit.contract.images import LabeledData
from sslkit.data.loader import Loader
from sslkit.evaluators.classifier import check_layers
from sslkit.evaluators.views import ViewOptions
from sslkit.training.features import extract_features
from sslkit.training.representation import alpha_req, rankme


@final
@dataclass(frozen=True, kw_only=True)
class FeatureQuality(ViewOptions, Evaluator):
    """The effective rank of the pooled features, and how fast their spectrum falls off.

    Neither needs labels, so they can be watched during pretraining and on data that has none. They are measured on the held-out images,
    or on the pretraining images where there are none.

    Attributes:
        layers: where to measure; all share one forward pass.
        batch_size: images per forward pass.
    """

    needs_labels: ClassVar[bool] = False
    layers: tuple[str, ...]
    batch_size: int = 256

    def __post_init__(self) -> None:
        ViewOptions.__post_init__(self)
        if self.batch_size < 1:
            raise OptionError("batch_size", "must be positive", found=self.batch_size, allowed="1 or more images")

    @override
    def check(self, backbone: Backbone, data: LabeledData) -> None:
        check_layers("layers", self.layers, backbone)
        self.check_views(backbone, self.layers, data.test.image)

    @override
    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        """Reports ``<layer>.rankme``, and ``<layer>.alpha_req`` where there is a spectrum."""
        loader = Loader(data.test, batch_size=self.batch_size, device=context.device)
        features = extract_features(backbone, loader, self.layers, None, view=self.test_view, should_stop=context.should_stop)
        metrics = {}
        for layer in self.layers:
            metrics[f"{layer}.rankme"] = rankme(features[layer])
            if (alpha := alpha_req(features[layer])) is not None:
                metrics[f"{layer}.alpha_req"] = alpha
        return Evaluation(metrics)
