"""RotNet as a plugin: predict which geometric transform an image went through. Gidaris et al. 2018, arXiv:1803.07728."""

from sslkit import PretextTask, hookimpl
from sslkit_rotnet.task import RotNet

__all__ = ["RotNet", "pretext_tasks"]


@hookimpl
def pretext_tasks() -> dict[str, type[PretextTask]]:
    """Offer the pretext task under the name that recipes use."""
    return {"rotnet": RotNet}
