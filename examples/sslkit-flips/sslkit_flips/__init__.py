"""Flip prediction as a plugin: which way was an image mirrored?"""

from sslkit import PretextTask, hookimpl
from sslkit_flips.task import Flips


@hookimpl
def pretext_tasks() -> dict[str, type[PretextTask]]:
    """Offer the pretext task under the name that recipes use."""
    return {"flips": Flips}
