"""One stage in its folder: not repeated when finished, resumed when interrupted, refused when it belongs to another recipe."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from sslkit.catalog.observers import Observers
from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming, naming
from sslkit.contract.errors import ArtifactError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Notice, Observer, StageEnd, StageSkipped, StageStart
from sslkit.contract.objective import Prediction
from sslkit.run.artifacts import (
    ARTIFACT,
    BACKBONE,
    HEADS,
    METRICS,
    PREDICTIONS,
    SNAPSHOTS,
    BackboneRecord,
    describe_backbone,
    load_weights,
    read_artifact,
    record_of,
    save_module,
    save_predictions,
)
from sslkit.run.environment import describe_environment, timestamp
from sslkit.storage.atomic import make_folder, refuse_links, remove, remove_unfinished
from sslkit.storage.identity import CODE, differences, fingerprint, plain, state_hash
from sslkit.storage.json_files import write_json
from sslkit.storage.metrics_log import MetricsLog
from sslkit.training.breakdown import explaining_breakdown
from sslkit.training.device import Runtime, configured, describe_device
from sslkit.training.stopping import stoppable

Kind = Literal["pretrain", "evaluate"]

FORMAT = 2
"""Of a stage's folder; counted up when an older one cannot be gone on with."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a stage's backbone comes from, for its fingerprint and its artifact. A recipe gives it; objects made in Python have none.

    Attributes:
        record: how to build the backbone again.
        weights: ``random``, or the fingerprint of the stage that left them.
        code: that decides the outcome, as :class:`~sslkit.catalog.source_code.SourceCode` knows it.
        environment: what belongs beside the result besides hardware and versions: plugins.
    """

    record: BackboneRecord
    weights: str
    code: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


class StageResult(NamedTuple):
    """What a stage found.

    Attributes:
        metrics: by dotted name; accuracies in percent.
        backbone: the pretrained or fine-tuned network in eval mode, on the CPU; None for probes.
        folder: where its artifact lies, or None.
        fingerprint: of everything that decided the outcome.
    """

    metrics: dict[str, float]
    backbone: Backbone | None
    folder: Path | None
    fingerprint: str


class Outcome(NamedTuple):
    """What the work of a stage hands over to be kept."""

    metrics: dict[str, float]
    backbone: Backbone | None = None
    heads: Mapping[str, nn.Module] = {}
    predictions: Mapping[str, Prediction] = {}
    facts: Mapping[str, Any] = {}


Work = Callable[[Backbone, RunContext], Outcome]


@dataclass(frozen=True)
class StageRun:
    """A stage's name, folder and surroundings; runs any work in them."""

    name: str
    kind: Kind
    output: str | Path | None
    seed: int
    runtime: Runtime
    observers: Iterable[Observer]
    should_stop: Callable[[], bool] | None
    provenance: Provenance | None

    @property
    def folder(self) -> Path | None:
        """Where everything goes, or None to keep nothing."""
        return None if self.output is None else Path(self.output)

    def run(self, backbone: Backbone, identity: Mapping[str, Any], work: Work, *, skipped: tuple[str, ...]) -> StageResult:
        """Do the work unless it is done; go on where it was interrupted; leave the artifact."""
        with blaming(f"stage {self.name!r}"), naming(f"stage {self.name!r}"):
            return self._run(backbone, identity, work, skipped=skipped)

    def _run(self, backbone: Backbone, identity: Mapping[str, Any], work: Work, *, skipped: tuple[str, ...]) -> StageResult:
        record, identity = self._identify(backbone, identity)
        mark = fingerprint(identity)
        log = [] if self.folder is None else [MetricsLog(self.folder / METRICS)]
        observers = Observers([*log, Observers(self.observers)])
        artifact = self._open(identity, mark)
        if artifact.get("status") == "finished":
            observers.observe(StageSkipped(stage=self.name, metrics=artifact["metrics"]))
            return self._finished(backbone, artifact, mark)
        device = self.runtime.resolve_device()
        begun = {"stage": self.name, "kind": self.kind, "status": "running", "format": FORMAT, "fingerprint": mark, "identity": identity}
        environments = self._begin(artifact or begun, device)
        context = self._context(device, observers)
        observers.observe(StageStart(stage=self.name, kind=self.kind, folder=self.folder))
        if skipped:
            message = f"skipped {len(skipped)} file{'s' * (len(skipped) > 1)} that cannot be decoded, listed in {ARTIFACT}; the first is {skipped[0]}"
            observers.observe(Notice(stage=self.name, message=message))
        started = time.perf_counter()
        with stoppable(context.should_stop), explaining_breakdown(self._describe(identity), device), configured(self.runtime, device):
            outcome = work(self._place(copy.deepcopy(backbone), device), context)
        # Seconds of earlier, interrupted starts are not in the sum: nobody measured them.
        seconds = time.perf_counter() - started
        facts = {**outcome.facts, "skipped_files": list(skipped), "seconds": round(seconds, 3), "device": describe_device(device)}
        facts |= {"finished": timestamp(), "environments": environments, "identity": identity}
        result = self._keep(outcome, record, mark, facts)
        observers.observe(StageEnd(stage=self.name, metrics=outcome.metrics, seconds=seconds))
        return result

    def _identify(self, backbone: Backbone, identity: Mapping[str, Any]) -> tuple[BackboneRecord, dict[str, Any]]:
        """Everything that decides the outcome. Device, logging and checkpoint intervals do not."""
        provenance = self.provenance or Provenance(record=record_of(backbone), weights=state_hash(backbone))
        return provenance.record, {
            **identity,
            "stage": self.name,
            "seed": self.seed,
            "precision": self.runtime.precision,
            "deterministic": self.runtime.deterministic,
            "backbone": {**provenance.record._asdict(), "image": plain(backbone.image), "weights": provenance.weights},
            "versions": {"sslkit": version("sslkit")},
            CODE: dict(provenance.code) if self.provenance else identity[CODE],
        }

    def _open(self, identity: Mapping[str, Any], mark: str) -> dict[str, Any]:
        """The artifact that is there already, or an empty one.

        Raises:
            ArtifactError: the folder holds another stage; the message lists the differing keys.
        """
        if self.folder is None:
            return {}
        make_folder(self.folder)
        refuse_links(self.folder)
        remove_unfinished(self.folder)
        path = self.folder / ARTIFACT
        if not path.exists():
            # What has no artifact beside it is of nobody knows what: of another recipe, where a new start was cut short.
            _remove_checkpoints(self.folder)
            remove((*(self.folder / name for name in (METRICS, BACKBONE, HEADS, PREDICTIONS)), *(self.folder / SNAPSHOTS).glob("*")))
            return {}
        artifact = read_artifact(self.folder)
        self._check_artifact(artifact)
        if artifact.get("fingerprint") != mark:
            changed = differences(artifact.get("identity", {}), identity)
            redrawn = self.provenance is None and [key.partition(":")[0] for key in changed] == ["backbone.weights"]
            hint = (
                "random weights are drawn anew in each program: call torch.manual_seed before you build the backbone; " if redrawn else ""
            )
            raise ArtifactError(
                f"{self.folder}: holds stage {self.name!r} of a different recipe ({'; '.join(changed)})",
                fix=f"{hint}remove that folder to run this stage again, start over with --fresh, or choose another folder with --output",
            )
        return artifact

    def _begin(self, artifact: Mapping[str, Any], device: torch.device) -> list[dict[str, Any]]:
        """Write down what the stage is computed with from here on.

        Returns:
            That, after what an earlier start computed with, where it was anything else.
        """
        provenance = {} if self.provenance is None else self.provenance.environment
        environments = [*artifact.get("environments", []), {**describe_environment(device), **provenance}]
        if len(environments) > 1 and _same(*environments[-2:]):
            environments.pop()
        if self.folder is not None:
            write_json(self.folder / ARTIFACT, {**artifact, "environments": environments})
        return environments

    def _check_artifact(self, artifact: Mapping[str, Any]) -> None:
        if artifact.get("status") == "finished" and "metrics" not in artifact:
            raise ArtifactError(f"{self.folder}/{ARTIFACT}: damaged (metrics: missing)", fix="remove it and run the recipe again")
        if (found := artifact.get("format")) != FORMAT:
            raise ArtifactError(
                f"{self.folder}: was written by another version of sslkit (format {found}, not {FORMAT})",
                fix="go on with that version, start over with --fresh, or choose another folder with --output",
            )

    def _describe(self, identity: Mapping[str, Any]) -> str:
        """The stage, and the sizes that decide how much memory it takes."""
        image = identity["backbone"]["image"]
        options = identity.get("training") or identity.get("evaluator") or {}
        batch = f"batch_size {options['batch_size']}, " if "batch_size" in options else ""
        return f"stage {self.name!r} ({batch}images of {image[0]} x {image[1]} pixels)"

    def _context(self, device: torch.device, observers: Observers) -> RunContext:
        return RunContext(
            stage=self.name,
            seed=self.seed,
            device=device,
            autocast=self.runtime.resolve_autocast(device),
            channels_last=self.runtime.channels_last,
            compile=self.runtime.resolve_compile(device),
            cuda_graphs=self.runtime.cuda_graphs and device.type == "cuda",
            log_every=self.runtime.log_every,
            checkpoint_minutes=self.runtime.checkpoint_minutes,
            keep_checkpoints=self.runtime.keep_checkpoints,
            folder=self.folder,
            emit=observers.observe,
            should_stop=self.should_stop or (lambda: False),
        )

    def _place(self, backbone: Backbone, device: torch.device) -> Backbone:
        backbone = backbone.to(device)
        backbone.requires_grad_(True)
        if self.runtime.channels_last:
            backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
        return backbone

    def _keep(self, outcome: Outcome, record: BackboneRecord, mark: str, facts: Mapping[str, Any]) -> StageResult:
        """Write weights first and the artifact last: a stage is finished when its artifact says so. Checkpoints are then of no use."""
        backbone = None if outcome.backbone is None else outcome.backbone.cpu().eval()
        if self.folder is None:
            return StageResult(outcome.metrics, backbone, None, mark)
        if backbone is not None:
            save_module(self.folder / BACKBONE, backbone)
        if outcome.heads:
            save_module(self.folder / HEADS, nn.ModuleDict(dict(outcome.heads)))
        if outcome.predictions:
            save_predictions(self.folder, outcome.predictions)
        described = {} if backbone is None else {"backbone": describe_backbone(backbone, record)}
        write_json(
            self.folder / ARTIFACT,
            {
                "stage": self.name,
                "kind": self.kind,
                "status": "finished",
                "format": FORMAT,
                "metrics": outcome.metrics,
                **described,
                **facts,
                "fingerprint": mark,
            },
        )
        _remove_checkpoints(self.folder)
        return StageResult(outcome.metrics, backbone, self.folder, mark)

    def _finished(self, backbone: Backbone, artifact: Mapping[str, Any], mark: str) -> StageResult:
        assert self.folder is not None
        _remove_checkpoints(self.folder)  # of a start that was killed between its last two writes
        path = self.folder / BACKBONE
        trained = None
        if "backbone" in artifact:
            if not path.exists():
                raise ArtifactError(
                    f"{path}: no such file, although the stage is finished", fix=f"remove {self.folder} to run the stage again"
                )
            trained = copy.deepcopy(backbone)
            load_weights(trained, path)
            trained.eval()
        return StageResult(dict(artifact["metrics"]), trained, self.folder, mark)


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two starts differ in nothing but their time."""
    return {**before, "started": ""} == {**after, "started": ""}


def _remove_checkpoints(folder: Path) -> None:
    remove(folder.glob("checkpoint-*"))
