"""Weights from a file of sslkit, timm, torchvision or any other training: names are matched automatically, and all weights must fit."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from sslkit.contract.errors import ArtifactError, some
from sslkit.recipe.weights import Source
from sslkit.storage.tensor_file import read_tensors

_HEADS = ("fc", "classifier", "head", "heads", "head_dist", "last_linear", "conv_head", "bn2", "fc_norm", "norm")
"""Names of classifiers, and of layers between backbone and classifier: they may be left over where the backbone has none."""

_MAX_NAME = 1000
"""Characters: longer names with many dots would only slow the comparison down."""

_COUNTER = "num_batches_tracked"
"""Of BatchNorm: old files lack it, and nothing reads it at a fixed momentum."""

_TORCHVISION_VIT = (
    (r"\bclass_token$", "cls_token"),
    (r"\bconv_proj\.", "patch_embed.proj."),
    (r"\bencoder\.pos_embedding$", "pos_embed"),
    (r"\bencoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\bencoder\.ln\.", "norm."),
    (r"\bln_([12])\.", r"norm\1."),
    (r"\bself_attention\.in_proj_", "attn.qkv."),
    (r"\bself_attention\.out_proj\.", "attn.proj."),
    (r"\bmlp\.(0|linear_1)\.", "mlp.fc1."),
    (r"\bmlp\.(3|linear_2)\.", "mlp.fc2."),
)
"""Torchvision's names of a ViT's weights, and timm's. Its ResNets, VGGs and DenseNets have timm's names."""


class FittedWeights(NamedTuple):
    """What is read from a file: tensors by the network's names and in its dtypes, and a sentence on the rest."""

    tensors: dict[str, Tensor]
    note: str


def fit_weights(source: Source, network: nn.Module) -> FittedWeights:
    """Read the weights of a network, which may be on the meta device.

    A prefix that all names of the network have in the file (``module.``, ``backbone.``, ``encoder_q.``) is found by comparing names.
    BatchNorm's counters may be missing.

    Raises:
        ArtifactError: the file is no safetensors file; or a weight is missing, is unexpected or has another shape, each of which is named.
    """
    found, path = read_tensors(source.path), source.path
    own = network.state_dict()
    common = _common_prefix(list(own))
    short = {name.removeprefix(common): name for name in own}
    renamed = {_renamed(name): tensor for name, tensor in found.items()}
    if _best(renamed, short) > _best(found, short) and len(renamed) == len(found):
        found = renamed
    prefix = _prefix(source, found, short, common, own)
    if _prefixes(found, {name: name for name in own})[prefix]:  # the file has the names whole
        short = {name: name for name in own}
    below = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    allowed, names = source.allow_missing, {each: (name, name.removeprefix(common)) for each, name in short.items()}
    if unused := [start for start in allowed if not any(name.startswith(start) for both in names.values() for name in both)]:
        what = f"{path}: allow_missing names no weight of {type(network).__name__}"
        raise ArtifactError(what, found=unused, allowed=some(list(short)))
    may_miss = {each for each, both in names.items() if any(name.startswith(allowed) for name in both)} if allowed else set[str]()
    other = [each for each in short if each in below and not _alike(below[each], own[short[each]])]
    absent = [each for each in short if each not in below and not each.endswith(_COUNTER)]
    unexpected = [name for name in below if name not in short]
    heads = [name for name in unexpected if name.removeprefix(common).partition(".")[0] in _HEADS]
    problems = {
        "missing": [each for each in absent if each not in may_miss],
        "unexpected": [f"{prefix}{name}" for name in unexpected if name not in heads],
        "other shape": [_shapes(each, below[each], own[short[each]]) for each in other if each not in may_miss],
    }
    if any(problems.values()):
        named = "; ".join(f"{what}: {some(names)}" for what, names in problems.items() if names)
        only_missing = not problems["unexpected"]
        fix = "list what may begin at random in allow_missing" if only_missing else "choose the backbone that was trained"
        raise ArtifactError(f"{path}: does not fit {type(network).__name__} ({named})", fix=fix)
    tensors = {short[each]: tensor.to(own[short[each]].dtype) for each, tensor in below.items() if each in short and each not in other}
    left = [name for name in found if name.removeprefix(prefix) in heads or not name.startswith(prefix)]
    notes = [
        f"{len(tensors)} tensors of {path.name}" + (f" below {prefix!r}" if prefix else ""),
        f"left over: {some(left)}" if left else "",
        f"begin at random: {some([*absent, *other])}" if absent or other else "",
    ]
    return FittedWeights(tensors, "; ".join(filter(None, notes)))


def hash_of(path: Path) -> str:
    """SHA-256 of a file's bytes; computed once as long as its size and time stay."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@cache
def _hash(path: Path, _size: int, _time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefixes(names: Mapping[str, object], short: Mapping[str, str]) -> Counter[str]:
    """The prefixes of the network's names in a file, with the number of names that have each."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while len(name) <= _MAX_NAME:
            if name[start:] in short:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _best(names: Mapping[str, object], short: Mapping[str, str]) -> int:
    return max(_prefixes(names, short).values(), default=0)


def _prefix(source: Source, found: Mapping[str, Tensor], short: Mapping[str, str], common: str, own: Mapping[str, Tensor]) -> str:
    """The prefix of the network's names in a file; ``common`` is what all of the network's own names begin with."""
    counts = _prefixes(found, short)
    if source.prefix:
        prefix = f"{source.prefix.rstrip('.')}."
        inside = {name: count for name, count in counts.items() if name.startswith(prefix)}
        if not inside:
            known = sorted({name.partition(".")[0] for name in found})
            raise ArtifactError(f"{source.path}: no weight of the network is below {prefix!r}", allowed=some(known))
        counts = Counter(inside)
    if not counts:
        raise ArtifactError(
            f"{source.path}: no name in it is one of the network's",
            found=some(list(found), 3),
            allowed=some(list(short), 3),
            fix="choose the backbone that was trained",
        )
    most = max(counts.values())
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    if len(best) > 1:  # of a file of another network a few names may fit by chance, below any prefix
        needed = [each for each in short if not each.endswith(_COUNTER)]
        alike = {
            prefix: sum(prefix + each in found and _alike(found[prefix + each], own[short[each]]) for each in needed) for prefix in best
        }
        best = [prefix for prefix in best if alike[prefix] > len(needed) / 2] or [max(best, key=lambda prefix: alike[prefix])]
    if not source.prefix:
        best = [prefix.removesuffix(common) for prefix in best]
    if len(best) > 1:
        names = [prefix.rstrip(".") or "(nothing)" for prefix in best]
        fix = f"choose one: file:{source.path.name}#{names[-1]}"
        raise ArtifactError(f"{source.path}: holds several networks, below {' and '.join(names)}", fix=fix)
    return best[0]


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot."""
    first, last = min(names, default=""), max(names, default="")
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(".", 0, length) + 1]


def _renamed(name: str) -> str:
    for pattern, replacement in _TORCHVISION_VIT:
        name = re.sub(pattern, replacement, name)
    return name


def _alike(found: Tensor, own: Tensor) -> bool:
    return found.shape == own.shape and (found.dtype == own.dtype or (found.is_floating_point() and own.is_floating_point()))


def _shapes(name: str, found: Tensor, own: Tensor) -> str:
    return f"{name} ({_shape(found)} where {_shape(own)} belongs)"


def _shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f"{str(tensor.dtype).removeprefix('torch.')} "
    return kind + ("x".join(map(str, tensor.shape)) or "a number")
