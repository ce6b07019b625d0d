"""Which cluster? Caron et al. 2018 (arXiv:1807.05520). Images are clustered anew before each epoch; the clusters are the labels."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sslkit import Backbone, Batch, Classification, DataInfo, OptionError, PretextTask, TrainContext


@final
@dataclass(frozen=True, kw_only=True)
class DeepCluster(PretextTask):
    """Attributes:
    num_clusters: K of k-means.
    """

    num_clusters: int = 4

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "ClusterClassification":
        if data.num_images is None or data.num_images < self.num_clusters:
            raise OptionError("num_clusters", "is more than there are images", found=self.num_clusters, allowed=f"1 to {data.num_images}")
        return ClusterClassification(backbone, self.num_clusters, data.num_images)


class ClusterClassification(Classification):
    heldout_phase = None  # a held-out image is in no cluster

    clusters: Tensor

    def __init__(self, backbone: Backbone, num_clusters: int, num_images: int) -> None:
        super().__init__(backbone, num_clusters)
        self.register_buffer("clusters", torch.zeros(num_images, dtype=torch.int64))  # persistent: resuming does not cluster again

    def on_epoch_start(self, context: TrainContext) -> None:
        features = F.normalize(context.embed(self.backbone.layer_names[-1]))
        self.clusters.copy_(k_means(features, self.head.out_features, context.generator("k-means")))
        self.head.reset_parameters()  # cluster 3 of this epoch has nothing to do with cluster 3 of the last
        context.reset_optimizer_state(self.head)

    def epoch_indices(self, context: TrainContext) -> Tensor:
        """Clusters of all sizes are seen equally often: otherwise a large one swallows the rest."""
        clusters = self.clusters.cpu()
        weights = 1 / clusters.bincount(minlength=self.head.out_features)[clusters]
        return weights.multinomial(len(clusters), replacement=True, generator=context.generator("sampling"))

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {"images": batch.images, "labels": self.clusters[batch.indices]}


def k_means(features: Tensor, num_clusters: int, generator: Generator, num_rounds: int = 10) -> Tensor:
    """Lloyd's algorithm: (N, D) -> (N,) int64. A cluster that lost all its members keeps its centre."""
    centers = features[torch.randperm(len(features), generator=generator)[:num_clusters]]
    for _ in range(num_rounds):
        members = F.one_hot(torch.cdist(features, centers).argmin(dim=1), num_clusters).to(features.dtype)  # (N, K)
        counts = members.sum(dim=0)[:, None]
        centers = torch.where(counts > 0, members.T @ features / counts.clamp_min(1), centers)
    return torch.cdist(features, centers).argmin(dim=1)
