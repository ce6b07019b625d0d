"""One stage in its folder: not repeated when finished, resumed when interrupted, refused when it belongs to another recipe."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from sslkit.catalog.observers import Observers
from sslkit.contract.backbone import Backbone
from sslkit.contract.blame import blaming, naming
from sslkit.contract.errors import ArtifactError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Event, Notice, StageEnd, StageSkipped, StageStart
from sslkit.contract.images import ImageSet
from sslkit.contract.objective import Classified
from sslkit.data.cache import OpenedDataset
from sslkit.data.duplicates import Duplicates
from sslkit.data.loader import decoding_with
from sslkit.run.artifacts import (
    ARTIFACT,
    BACKBONE,
    HEADS,
    METRICS,
    PREDICTIONS,
    SNAPSHOTS,
    describe_backbone,
    load_weights,
    record_of,
    save_module,
    save_predictions,
)
from sslkit.run.environment import Provenance, Surroundings, describe_environment, timestamp
from sslkit.run.stage_identity import EXTENDED, FORMAT, Found, complete, examine
from sslkit.storage.atomic import make_folder, refuse_links, remove, remove_unfinished
from sslkit.storage.identity import CODE, state_hash
from sslkit.storage.json_files import write_json
from sslkit.storage.metrics_log import MetricsLog
from sslkit.training.checkpoints import hand_over
from sslkit.training.device import configured, describe_device, explaining_breakdown
from sslkit.training.stopping import stoppable

Kind = Literal["pretrain", "evaluate"]


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
    predictions: Mapping[str, Classified] = {}
    facts: Mapping[str, Any] = {}


@contextmanager
def begin(
    kind: Kind,
    backbone: Backbone,
    data: OpenedDataset,
    surroundings: Surroundings,
    identity: Mapping[str, Any],
    *,
    skipped: tuple[str, ...],
) -> Iterator["StageFolder"]:
    """Open a stage's folder, and where there is work left, set the machine up for it. The backbone that it begins with is copied, not changed;
    the identity is what decides the outcome besides backbone and surroundings; skipped are files that cannot be decoded.

    Raises:
        ArtifactError: the folder holds another stage; the message lists the differing keys.
    """
    name, runtime = surroundings.name, surroundings.runtime
    with blaming(f"stage {name!r}"), naming(f"stage {name!r}"), decoding_with(runtime.num_workers):
        try:
            stage = StageFolder(kind, backbone, data, surroundings, identity)
        except ArtifactError:  # which it may owe to a dataset that gives itself another fingerprint at every load
            data.check_fingerprints()
            raise
        if stage.finished is not None:
            stage.emit(StageSkipped(stage=name, metrics=stage.finished.metrics))
            yield stage
            return
        stage.start(skipped)
        device = stage.context.device
        with stoppable(stage.context.should_stop), explaining_breakdown(stage.describe(), device), configured(runtime, device):
            yield stage


class StageFolder:
    """A stage that was begun.

    Attributes:
        continues: the part of the training that it continues with other options: ``epochs``, ``steps`` and ``schedule``; or None.
        finished: its result, if an earlier start has left one.
        context: where and how to compute.
    """

    def __init__(
        self, kind: Kind, backbone: Backbone, data: OpenedDataset, surroundings: Surroundings, identity: Mapping[str, Any]
    ) -> None:
        self._kind = kind
        self._given = backbone
        self._data = data
        self._surroundings = surroundings
        self._folder = None if surroundings.output is None else Path(surroundings.output)
        provenance = surroundings.provenance or Provenance(record_of(backbone), state_hash(backbone), identity[CODE])
        self._record = provenance.record
        self._found = Found(complete(identity, surroundings, backbone.image, provenance), {})
        if self._folder is not None:
            make_folder(self._folder)
            refuse_links(self._folder)
            remove_unfinished(self._folder)
            self._found = examine(self._folder, self._found.identity, surroundings)
        self._identity, self._fingerprint = self._found.identity, self._found.fingerprint
        self._log = None if self._folder is None else MetricsLog(self._folder / METRICS)
        self._observers = Observers.of(surroundings.observers)
        self._artifact = {} if self._folder is None else self._open(self._folder)
        self.continues = self._identity[EXTENDED][-1] if self._found.continues else None
        self.finished = self._result() if self._artifact.get("status") == "finished" else None

    def start(self, skipped: tuple[str, ...]) -> None:
        """Write down what the stage is computed with from here on, and tell the observers."""
        given = self._surroundings
        device = given.runtime.resolve_device()
        environment = describe_environment(device) | dict(given.provenance.environment if given.provenance else {})
        environments = list(self._artifact.get("environments", []))
        if not environments or {**environments[-1], "started": ""} != {**environment, "started": ""}:
            environments.append(environment)
        self._skipped = skipped
        self._environments = environments
        if self._folder is not None:
            write_json(self._folder / ARTIFACT, {**(self._artifact or self._described("running")), "environments": environments})
        self.context = RunContext(
            stage=given.name,
            seed=given.seed,
            device=device,
            runtime=given.runtime,
            folder=self._folder,
            emit=self.emit,
            should_stop=given.should_stop or (lambda: False),
        )
        self.emit(StageStart(stage=given.name, kind=self._kind, folder=self._folder))
        if self._found.outdated:
            self.notify("begins anew, because the network that it takes was trained for longer")
        if skipped:
            files = f"{len(skipped)} file{'s' * (len(skipped) > 1)}"
            self.notify(f"skipped {files} that cannot be decoded, listed in {ARTIFACT}; the first is {skipped[0]}")
        for note in self._data.new_notes():
            self.notify(note)
        self._started = time.perf_counter()

    def backbone(self) -> Backbone:
        """A copy of the stage's backbone to work with, on the device, every weight of it trainable."""
        backbone = copy.deepcopy(self._given).to(self.context.device)
        backbone.requires_grad_(True)
        if self.context.runtime.channels_last:
            backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
        return backbone

    def finish(self, outcome: Outcome) -> StageResult:
        """Write weights first and the artifact last: a stage is finished when its artifact says so."""
        # Seconds of earlier, interrupted starts are not in the sum: nobody measured them.
        seconds = time.perf_counter() - self._started
        backbone = None if outcome.backbone is None else outcome.backbone.cpu().eval()
        if self._folder is not None:
            self._keep(self._folder, outcome, backbone, seconds)
        self.emit(StageEnd(stage=self._surroundings.name, metrics=outcome.metrics, seconds=seconds))
        return StageResult(outcome.metrics, backbone, self._folder, self._fingerprint)

    def emit(self, event: Event) -> None:
        """Write an event down and tell the observers."""
        if self._log is not None:
            self._log.observe(event)
        key = self._surroundings.key
        self._observers.observe(replace(event, stage=key) if key else event)

    def notify(self, message: str) -> None:
        """Tell the observers something that the user should know."""
        self.emit(Notice(stage=self._surroundings.name, message=message))

    def count_duplicates(self, use: str, train: ImageSet, test: ImageSet) -> int | None:
        """How many test images are also images of ``train``, which is used for ``use``; None where they are not compared."""

        def tell(found: Duplicates) -> None:
            self.notify(f"{found.num_test_images:,} of {len(test):,} test images are also {use} images ({found.describe()})")

        duplicates = self._data.duplicates(train, test, tell)
        return None if duplicates is None else duplicates.num_test_images

    def describe(self) -> str:
        """The stage, and the sizes that decide how much memory it takes."""
        image = self._given.image
        options = self._identity.get("training") or self._identity.get("evaluator") or {}
        batch = f"batch_size {options['batch_size']}, " if "batch_size" in options else ""
        return f"stage {self._surroundings.name!r} ({batch}images of {image.height} x {image.width} pixels)"

    def _described(self, status: str) -> dict[str, Any]:
        """What an artifact says from the beginning."""
        described = {"stage": self._surroundings.name, "kind": self._kind, "status": status, "format": FORMAT}
        return {**described, "fingerprint": self._fingerprint, "identity": self._identity}

    def _open(self, folder: Path) -> dict[str, Any]:
        """The artifact to build on, or an empty one."""
        found = self._found
        if found.outdated:
            remove([folder / ARTIFACT])  # first: should this be cut short, what is left belongs to nobody
        if found.outdated or not (folder / ARTIFACT).exists():
            # Without an artifact nobody knows whose files these are: another recipe's, where a new start was cut short.
            _remove_checkpoints(folder)
            remove((*(folder / name for name in (METRICS, BACKBONE, HEADS, PREDICTIONS)), *(folder / SNAPSHOTS).glob("*")))
        if not found.continues:
            return found.artifact
        hand_over(folder, found.identity["training"])  # before the artifact says so: a start that is cut short does it again
        before = found.artifact
        facts = {key: before[key] for key in ("metrics", "steps", "seconds", "finished") if key in before}
        parts = [*before.get(EXTENDED, []), {"epochs": found.identity[EXTENDED][-1]["epochs"], "status": before.get("status"), **facts}]
        return {**self._described("running"), "environments": before.get("environments", []), EXTENDED: parts}

    def _keep(self, folder: Path, outcome: Outcome, backbone: Backbone | None, seconds: float) -> None:
        if backbone is not None:
            save_module(folder / BACKBONE, backbone)
        if outcome.heads:
            save_module(folder / HEADS, nn.ModuleDict(dict(outcome.heads)))
        if outcome.predictions:
            save_predictions(folder, outcome.predictions)
        artifact = {
            **self._described("finished"),
            "metrics": outcome.metrics,
            **({} if backbone is None else {"backbone": describe_backbone(backbone, self._record)}),
            **outcome.facts,
            "skipped_files": list(self._skipped),
            "seconds": round(seconds + _seconds_before(self._artifact), 3),
            "device": describe_device(self.context.device),
            "finished": timestamp(),
            "environments": self._environments,
            **({EXTENDED: self._artifact[EXTENDED]} if EXTENDED in self._artifact else {}),
        }
        write_json(folder / ARTIFACT, artifact)
        _remove_checkpoints(folder, keep_last=self._kind == "pretrain")

    def _result(self) -> StageResult:
        """What an earlier start has left."""
        assert self._folder is not None
        # Of a start that was killed between its last two writes.
        _remove_checkpoints(self._folder, keep_last=self._kind == "pretrain")
        path, trained = self._folder / BACKBONE, None
        if "backbone" in self._artifact:
            if not path.exists():
                fix = f"remove {self._folder} to run the stage again"
                raise ArtifactError(f"{path}: no such file, although the stage is finished", fix=fix)
            trained = copy.deepcopy(self._given)
            load_weights(trained, path)
            trained.eval()
        return StageResult(dict(self._artifact["metrics"]), trained, self._folder, self._fingerprint)


def _seconds_before(artifact: Mapping[str, Any]) -> float:
    """Of the parts of a training that this one continues; each part's seconds include those of the parts before it, as its epochs do."""
    return max((part.get("seconds", 0.0) for part in artifact.get(EXTENDED, [])), default=0.0)


def _remove_checkpoints(folder: Path, *, keep_last: bool = False) -> None:
    """All of them, or all but the last, with which a longer pretraining will continue."""
    last = max(folder.glob(f"checkpoint-{'[0-9]' * 9}.safetensors"), default=None) if keep_last else None
    remove(path for path in folder.glob("checkpoint-*") if path != last)
