"""Every public name and its home: what type checkers read, and what ``sslkit/__init__.py`` resolves names with at run time."""

from . import views as views
from .audit.recipe_audit import audit_recipe as audit_recipe
from .audit.task_audit import AuditOptions as AuditOptions, audit_task as audit_task
from .backbones.from_timm import TimmBackbone as TimmBackbone
from .backbones.nin import NIN as NIN
from .backbones.projector import projector as projector
from .catalog.catalog import Catalog as Catalog
from .catalog.discovery import hookimpl as hookimpl, load_catalog as load_catalog
from .contract.backbone import Backbone as Backbone, FeatureInfo as FeatureInfo
from .contract.classification import Classification as Classification, Linear as Linear, classify as classify
from .contract.errors import (
    ArtifactError as ArtifactError,
    BackboneError as BackboneError,
    DataError as DataError,
    DivergedError as DivergedError,
    OptionError as OptionError,
    PluginError as PluginError,
    RecipeError as RecipeError,
    RunFailedError as RunFailedError,
    RunInterruptedError as RunInterruptedError,
    SslkitError as SslkitError,
    SslkitWarning as SslkitWarning,
    StorageError as StorageError,
)
from .contract.evaluator import Evaluation as Evaluation, Evaluator as Evaluator, RunContext as RunContext
from .contract.events import (
    CheckpointSaved as CheckpointSaved,
    DataFound as DataFound,
    Event as Event,
    FeaturesMeasured as FeaturesMeasured,
    FitStart as FitStart,
    HeldoutEnd as HeldoutEnd,
    Notice as Notice,
    Observer as Observer,
    StageEnd as StageEnd,
    StageSkipped as StageSkipped,
    StageStart as StageStart,
    StepEnd as StepEnd,
)
from .contract.images import (
    Augment as Augment,
    Batch as Batch,
    DataInfo as DataInfo,
    Dataset as Dataset,
    ImageDecoder as ImageDecoder,
    ImageHeader as ImageHeader,
    ImageSet as ImageSet,
    ImageSpec as ImageSpec,
    LabeledData as LabeledData,
    Split as Split,
)
from .contract.objective import (
    Classified as Classified,
    Mean as Mean,
    Objective as Objective,
    Prediction as Prediction,
    PretextTask as PretextTask,
    Represented as Represented,
    Step as Step,
    StepOutput as StepOutput,
    TrainContext as TrainContext,
)
from .contract.runtime import Runtime as Runtime, without_autocast as without_autocast
from .contract.training import OptimizerFactory as OptimizerFactory, Schedule as Schedule
from .data.arrays import Arrays as Arrays
from .data.digits import Digits as Digits
from .data.image_folder import ImageFolder as ImageFolder
from .data.loader import Loader as Loader
from .evaluators.feature_quality import FeatureQuality as FeatureQuality
from .evaluators.few_labels import SemiSupervised as SemiSupervised
from .evaluators.finetune import FineTune as FineTune, Supervised as Supervised
from .evaluators.knn import KNN as KNN
from .evaluators.probes import ConvProbe as ConvProbe, LinearProbe as LinearProbe, MLPProbe as MLPProbe
from .recipe.recipe import Recipe as Recipe, load_recipe as load_recipe
from .report.comparison import compare_runs as compare_runs
from .report.page import write_report as write_report
from .report.run import run_recipe as run_recipe
from .run.artifacts import load_backbone as load_backbone
from .run.stages import evaluate as evaluate, pretrain as pretrain
from .training.features import extract_features as extract_features
from .training.fit import fit as fit
from .training.gather import gather as gather
from .training.optimizers import LARS as LARS, SGD as SGD, Adam as Adam, AdamW as AdamW
from .training.options import OnNan as OnNan, TrainingOptions as TrainingOptions
from .training.schedules import Constant as Constant, Cosine as Cosine, MultiStep as MultiStep
from .training.teacher import Teacher as Teacher

__version__: str
