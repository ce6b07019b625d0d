"""What a fit is known by, so that it takes no checkpoint of another."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sslkit.catalog.source_code import SourceCode
from sslkit.contract.class_address import address_of
from sslkit.contract.errors import PluginError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.objective import Objective
from sslkit.storage.identity import CODE, plain, state_hash
from sslkit.training.batch_source import BatchSource
from sslkit.training.options import TrainingOptions


def identity_of(objective: Objective, train: BatchSource, training: TrainingOptions, context: RunContext) -> dict[str, Any]:
    """Whose a checkpoint is. Weights that are trained are no part of it: they may begin at random."""
    frozen = [objective.get_submodule(name) for name in objective.frozen]
    return {
        "objective": address_of(type(objective)),
        "options": dict(_options(objective)),
        "frozen": [state_hash(module) for module in frozen],
        "training": plain(training),
        "data": train.fingerprint,
        "part": context.part,
        CODE: SourceCode().of(objective, training),
    }


def _options(objective: Objective) -> Iterator[tuple[str, Any]]:
    """The options that an objective keeps: dataclasses of plain values, as tasks are."""
    for name, value in vars(objective).items():
        if dataclasses.is_dataclass(value):
            with suppress(TypeError, ValueError, PluginError):
                yield name, json.loads(json.dumps(plain(value)))
