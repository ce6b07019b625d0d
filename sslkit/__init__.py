"""sslkit: self-supervised learning with pluggable pretext tasks.

Every public name is importable from here, and only the ones in ``__all__`` are public. They are resolved on first use (PEP 562), so
that ``import sslkit`` and ``sslkit --help`` need no torch.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what _HOMES does at run time, for type checkers and editors; a test holds the two together
    from sslkit.audit.recipe_audit import audit_recipe
    from sslkit.audit.task_audit import AuditOptions, audit_task
    from sslkit.backbones.blocks import without_autocast
    from sslkit.backbones.from_timm import TimmBackbone
    from sslkit.backbones.nin import NIN
    from sslkit.catalog.catalog import Catalog
    from sslkit.catalog.discovery import load_catalog
    from sslkit.catalog.hooks import hookimpl
    from sslkit.contract.backbone import Backbone, FeatureInfo
    from sslkit.contract.errors import (
        ArtifactError,
        BackboneError,
        DataError,
        DivergedError,
        OptionError,
        PluginError,
        RecipeError,
        RunFailedError,
        RunInterruptedError,
        SslkitError,
        SslkitWarning,
        StorageError,
    )
    from sslkit.contract.evaluator import Evaluation, Evaluator, RunContext
    from sslkit.contract.events import (
        CheckpointSaved,
        DataFound,
        Event,
        FitStart,
        HeldoutEnd,
        Notice,
        Observer,
        StageEnd,
        StageSkipped,
        StageStart,
        StepEnd,
    )
    from sslkit.contract.images import Augment, Batch, DataInfo, Dataset, ImageSet, ImageSpec, LabeledData, Split
    from sslkit.contract.objective import Mean, Objective, Prediction, PretextTask, StepOutput, TrainContext
    from sslkit.contract.training import OptimizerFactory, Schedule
    from sslkit.data.arrays import Arrays
    from sslkit.data.digits import Digits
    from sslkit.data.image_folder import ImageFolder
    from sslkit.data.loader import Loader
    from sslkit.evaluators.feature_quality import FeatureQuality
    from sslkit.evaluators.few_labels import SemiSupervised
    from sslkit.evaluators.finetune import FineTune, Supervised
    from sslkit.evaluators.knn import KNN
    from sslkit.evaluators.probes import ConvProbe, LinearProbe, MLPProbe
    from sslkit.recipe.recipe import Recipe, load_recipe
    from sslkit.report.comparison import compare_runs
    from sslkit.report.page.files import write_report
    from sslkit.run.artifacts import load_backbone
    from sslkit.run.runner import run_recipe
    from sslkit.run.stages import evaluate, pretrain
    from sslkit.training.features import extract_features
    from sslkit.training.fit import fit
    from sslkit.training.optimizers import SGD, AdamW
    from sslkit.training.options import OnNan, TrainingOptions
    from sslkit.training.schedules import Constant, Cosine, Step

    __version__: str

__all__ = [
    "KNN",
    "NIN",
    "SGD",
    "AdamW",
    "Arrays",
    "ArtifactError",
    "AuditOptions",
    "Augment",
    "Backbone",
    "BackboneError",
    "Batch",
    "Catalog",
    "CheckpointSaved",
    "Constant",
    "ConvProbe",
    "Cosine",
    "DataError",
    "DataFound",
    "DataInfo",
    "Dataset",
    "Digits",
    "DivergedError",
    "Evaluation",
    "Evaluator",
    "Event",
    "FeatureInfo",
    "FeatureQuality",
    "FineTune",
    "FitStart",
    "HeldoutEnd",
    "ImageFolder",
    "ImageSet",
    "ImageSpec",
    "LabeledData",
    "LinearProbe",
    "Loader",
    "MLPProbe",
    "Mean",
    "Notice",
    "Objective",
    "Observer",
    "OnNan",
    "OptimizerFactory",
    "OptionError",
    "PluginError",
    "Prediction",
    "PretextTask",
    "Recipe",
    "RecipeError",
    "RunContext",
    "RunFailedError",
    "RunInterruptedError",
    "Schedule",
    "SemiSupervised",
    "Split",
    "SslkitError",
    "SslkitWarning",
    "StageEnd",
    "StageSkipped",
    "StageStart",
    "Step",
    "StepEnd",
    "StepOutput",
    "StorageError",
    "Supervised",
    "TimmBackbone",
    "TrainContext",
    "TrainingOptions",
    "__version__",
    "audit_recipe",
    "audit_task",
    "compare_runs",
    "evaluate",
    "extract_features",
    "fit",
    "hookimpl",
    "load_backbone",
    "load_catalog",
    "load_recipe",
    "pretrain",
    "run_recipe",
    "without_autocast",
    "write_report",
]

_HOMES = {
    "sslkit.run.artifacts": ("load_backbone",),
    "sslkit.audit.task_audit": ("AuditOptions", "audit_task"),
    "sslkit.audit.recipe_audit": ("audit_recipe",),
    "sslkit.backbones.from_timm": ("TimmBackbone",),
    "sslkit.backbones.nin": ("NIN",),
    "sslkit.catalog.catalog": ("Catalog",),
    "sslkit.data.arrays": ("Arrays",),
    "sslkit.data.digits": ("Digits",),
    "sslkit.data.image_folder": ("ImageFolder",),
    "sslkit.data.loader": ("Loader",),
    "sslkit.training.features": ("extract_features",),
    "sslkit.training.fit": ("fit",),
    "sslkit.training.optimizers": ("SGD", "AdamW"),
    "sslkit.training.schedules": ("Constant", "Cosine", "Step"),
    "sslkit.training.options": ("OnNan", "TrainingOptions"),
    "sslkit.contract.errors": (
        *("ArtifactError", "BackboneError", "DataError", "DivergedError", "RunInterruptedError", "OptionError"),
        *("PluginError", "RecipeError", "RunFailedError", "SslkitError", "SslkitWarning", "StorageError"),
    ),
    "sslkit.evaluators.feature_quality": ("FeatureQuality",),
    "sslkit.evaluators.finetune": ("FineTune", "Supervised"),
    "sslkit.evaluators.knn": ("KNN",),
    "sslkit.evaluators.probes": ("ConvProbe", "LinearProbe", "MLPProbe"),
    "sslkit.evaluators.few_labels": ("SemiSupervised",),
    "sslkit.contract.events": (
        *("CheckpointSaved", "DataFound", "Event", "FitStart", "HeldoutEnd", "Notice"),
        *("Observer", "StageEnd", "StageSkipped", "StageStart", "StepEnd"),
    ),
    "sslkit.catalog.hooks": ("hookimpl",),
    "sslkit.contract.backbone": ("Backbone", "FeatureInfo"),
    "sslkit.contract.evaluator": ("Evaluation", "Evaluator", "RunContext"),
    "sslkit.contract.images": ("Augment", "Batch", "DataInfo", "Dataset", "ImageSet", "ImageSpec", "LabeledData", "Split"),
    "sslkit.contract.objective": ("Mean", "Objective", "Prediction", "PretextTask", "StepOutput", "TrainContext"),
    "sslkit.contract.training": ("OptimizerFactory", "Schedule"),
    "sslkit.backbones.blocks": ("without_autocast",),
    "sslkit.catalog.discovery": ("load_catalog",),
    "sslkit.recipe.recipe": ("Recipe", "load_recipe"),
    "sslkit.report.comparison": ("compare_runs",),
    "sslkit.report.page.files": ("write_report",),
    "sslkit.run.runner": ("run_recipe",),
    "sslkit.run.stages": ("evaluate", "pretrain"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # hidden from type checkers, for which a module-level __getattr__ would make every misspelt name exist

    def __getattr__(name: str) -> object:
        """Import a public name from its home, once."""
        if name == "__version__":
            value = version("sslkit")
        elif name in _HOME_OF:
            value = getattr(importlib.import_module(_HOME_OF[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Every public name, resolved or not."""
        return sorted({*globals(), *__all__})
