"""For authors of plugins: does a pretext task, a backbone, an evaluator or an optimizer keep the promises of :mod:`sslkit.contract`?

Each check runs the object on a few random images and raises ``AssertionError`` with the promise that is broken. In a test of yours::

    from sslkit.testing import check_pretext_task

    def test_flips_keeps_its_promises():
        check_pretext_task(Flips(flips=("none", "vertical")))
"""

from sslkit.testing.backbones import check_backbone
from sslkit.testing.evaluators import check_evaluator
from sslkit.testing.optimizers import check_optimizer
from sslkit.testing.specimens import IMAGE, TinyBackbone
from sslkit.testing.tasks import check_pretext_task

__all__ = ["IMAGE", "TinyBackbone", "check_backbone", "check_evaluator", "check_optimizer", "check_pretext_task"]
