"""Contexts for tests that call ``fit`` or an evaluator themselves."""

from dataclasses import fields
from typing import Any

import torch

from sslkit import RunContext
from sslkit.contract.runtime import Runtime

_PRECISIONS = {torch.bfloat16: "bfloat16", torch.float16: "float16", None: "float32"}
_RUNTIME = {field.name for field in fields(Runtime)} - {"device"}


def make_context(*, autocast: torch.dtype | None = None, **options: Any) -> RunContext:
    """A context on the CPU that compiles nothing and writes no checkpoint but those asked for. Options of the runtime stand among its own."""
    given = {"stage": "pretrain", "seed": 3, "device": torch.device("cpu"), **options}
    runtime = {"compile": False, "checkpoint_minutes": 1e9, "channels_last": False, "precision": _PRECISIONS[autocast]}
    runtime |= {name: given.pop(name) for name in _RUNTIME & given.keys()}
    return RunContext(runtime=Runtime(**runtime), **given)
