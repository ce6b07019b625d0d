"""The JSON files of a run's folder, which somebody else or another version may have written: checked against a form when they are read."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from sslkit.contract.errors import ArtifactError
from sslkit.storage.atomic import make_folder, written_whole

MAX_JSON_BYTES = 64 * 2**20
"""The limit for one file: ten times an artifact that lists a hundred thousand skipped files."""

MAX_DEPTH = 32
"""Tables and arrays inside each other. Whoever walks the values may then do so by recursion."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
"""What torch, C and TOML itself call an integer. Python can neither print a much longer one nor make a float of it."""

_EATEN = re.compile(r"[A-Za-z]:[\b\t\n\f\r\x1b]")
"""``C:\\new`` in double quotes is ``C:``, a new line and ``ew``."""

_FIX = "remove it and run the recipe again"

Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=65_536)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]


class SavedFile(BaseModel):
    """What is read of a file. Every key may be missing, as older versions lack some, and there may be others."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


Form = TypeVar("Form", bound=SavedFile)


class SavedImage(SavedFile):
    """The images that a backbone was built for."""

    height: Side
    width: Side
    color: Literal["rgb", "gray", "lightness"] | None
    mean: list[FiniteFloat]
    std: list[FiniteFloat]


class SavedBackbone(SavedFile):
    """How to build a backbone again."""

    cls: str = Field(alias="class")
    options: dict[str, Any] | None
    image: SavedImage


class SavedTask(SavedFile):
    """A pretext task with its options, in a fingerprint."""

    model_config = ConfigDict(extra="allow")

    cls: str = Field(alias="class")


class SavedSpec(SavedFile):
    """A backbone, in a fingerprint."""

    spec: str
    options: dict[str, Any] | None = None


class SavedPart(SavedFile):
    """The epochs of a training, in total or until it was extended."""

    epochs: Count = 0


class SavedIdentity(SavedFile):
    """What decided a stage's outcome."""

    task: SavedTask | None = None
    training: SavedPart | None = None
    backbone: SavedSpec | None = None


class SavedProof(SavedFile):
    """That a frozen backbone stayed frozen."""

    sha256_after: str


class SavedEnvironment(SavedFile):
    """What a stage was computed with."""

    started: str = ""
    command: list[str] = []
    commit: str = ""
    python: str = ""
    platform: str = ""
    device: str = ""
    threads: Count = 0
    versions: dict[str, str] = {}
    plugins: dict[str, str] = {}


class SavedArtifact(SavedFile):
    """artifact.json."""

    kind: str = ""
    status: str = ""
    fingerprint: str = ""
    metrics: dict[str, float] = {}
    identity: SavedIdentity = SavedIdentity()
    backbone: SavedBackbone | None = None
    frozen_backbone: SavedProof | None = None
    num_images: Count = 0
    num_test_images: Count = 0
    seconds: Seconds = 0.0
    device: str = ""
    finished: str = ""
    environments: list[SavedEnvironment] = []
    classes: list[str] = []
    images_per_class: dict[str, list[Count]] = {}
    recall: dict[str, list[FiniteFloat | None]] = {}
    skipped_files: list[str] = []
    snapshot_epochs: list[int] = []
    scaled_rates: list[str] = []
    extended: list[SavedPart] = []
    alarms: list[str] = []


class SavedWeights(SavedFile):
    """The header of a file of weights."""

    backbone: SavedBackbone
    origin: dict[str, Any]


class SavedResults(SavedFile):
    """results.json."""

    recipe: str = ""
    stages: dict[str, dict[str, float]] = {}
    pending: list[str] = []


class SavedRecipe(SavedFile):
    """What a report reads of recipe.toml, whether the recipe can still be loaded or not."""

    name: str
    paper: dict[str, FiniteFloat] = {}
    margins: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = {}


def read_json(path: Path, form: type[SavedFile] = SavedFile) -> dict[str, Any]:
    """Read a JSON object that has a form. Whatever is wrong with it is an ``ArtifactError`` that names the file, and the key."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ArtifactError(f"{path}: is not a file", fix=_FIX)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_JSON_BYTES:  # asked first: reading up to the limit would reserve as much memory
                raise ArtifactError(f"{path}: is too large", allowed=f"{MAX_JSON_BYTES:,} bytes")
            value = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file", fix="name the folder of a finished stage") from error
    except RecursionError:
        raise ArtifactError(f"{path}: damaged (is nested too deeply)", fix=_FIX) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged ({error})", fix=_FIX) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: not a JSON object", fix=_FIX)
    if unfit := find_unfit(value):
        raise ArtifactError(f"{path}: damaged ({unfit})", fix=_FIX)
    check_form(value, form, path)
    return value


def check_form(value: object, form: type[Form], path: Path) -> Form:
    """What a file says; one whose values have other types than ours is refused, and the key named."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ""
        for part in problem["loc"]:
            key = f"{key}[{part}]" if isinstance(part, int) else dotted(key, part)
        raise ArtifactError(f"{path}: damaged ({key}: {problem['msg'][:1].lower()}{problem['msg'][1:]})", fix=_FIX) from error


class Unfit(NamedTuple):
    """A value that no file may hold."""

    path: str  # dotted
    problem: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; allowed: {self.allowed}"


def find_unfit(value: Any, path: str = "") -> Unfit | None:
    """The first value, in the order of the file, that is nested too deeply, is an integer of more than 64 bits, or a path of Windows that
    lost its backslashes. ``path`` is that of ``value``.
    """
    waiting = [(path, value, 0)]
    while waiting:  # without recursion, which the values could exhaust
        path, value, depth = waiting.pop()
        if isinstance(value, str) and _EATEN.match(value):
            return Unfit(path, "has a backslash that was read as an escape", "a path in single quotes, 'C:\\Users'")
        if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
            return Unfit(path, "is too large an integer", "64 bits")
        if isinstance(value, Mapping | list):
            if depth == MAX_DEPTH:
                return Unfit(path, "is nested too deeply", f"{MAX_DEPTH} levels of tables and arrays")
            if isinstance(value, Mapping):
                inside = [(dotted(path, key), inner, depth + 1) for key, inner in value.items()]
            else:
                inside = [(f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(value)]
            waiting.extend(reversed(inside))
    return None


def dotted(path: str, key: object) -> str:
    """The path of a table's key; a key that is not a plain word is put in quotes."""
    key = str(key)
    key = key if re.fullmatch(r"[A-Za-z0-9_.-]+", key) else json.dumps(key, ensure_ascii=False)
    return f"{path}.{key}" if path else key


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; its folder is made where it is missing."""
    make_folder(path.parent)
    with written_whole(path) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may hold bytes that are no text
