"""Which subfolders of a folder of images are its splits and its classes."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sslkit.contract.errors import DataError, OptionError, did_you_mean, some
from sslkit.data.folder_scan import FolderScan, find_folders, first_folder
from sslkit.data.validation import same_class

KINDS = {
    "train": ("train", "training"),
    "unlabeled": ("unlabeled", "unlabelled"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev"),
}
"""What folders of splits are called, in upper or lower case."""

KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}

HERE = "."
"""As the folder of the training images: the root itself, whose subfolders are classes whatever they are called."""


class Layout(NamedTuple):
    """Which folder holds which split; the same folder may hold two."""

    scan: FolderScan
    pretrain: Path
    train: Path | None = None
    test: Path | None = None
    classes: tuple[str, ...] = ()  # in ``train``; empty without labels
    left_out: tuple[Path, ...] = ()  # other folders beside these that hold images

    @property
    def held_out_from(self) -> Path:
        """The folder from whose images some are held out, where there is no test split."""
        return self.train or self.pretrain

    def has_labels(self, folder: Path) -> bool:
        """Whether test images have labels: all of them are in class folders, one of which is a training class too."""
        names = self.scan[folder].filled
        return "" not in names and not {*map(same_class, self.classes)}.isdisjoint(map(same_class, names))

    def check_images(self, folder: Path) -> None:
        """Refuse a folder without images, with a DataError that says what counts as one."""
        content = self.scan[folder]
        if not content.images:
            instead = f" of a type that is read, but {content.unread[0]}" if content.unread else ""
            raise DataError(
                f"{folder} holds no images{instead}", allowed=f"files that end in {', '.join(self.scan.suffixes)}, at any depth"
            )

    def check_labels(self) -> None:
        """Refuse training images whose folders are nearly classes, because whoever made them meant labels."""
        if self.train is None:
            return
        self.check_images(self.train)
        content = self.scan[self.train]
        if lost := next((path for path in content.unread if first_folder(path) not in ("", *content.filled)), None):
            problem = f"{self.train / first_folder(lost)} holds no images that are read, but {self.train / lost}"
            raise DataError(problem, allowed=self.scan.suffixes, fix="convert its images")
        if len(content.filled) == 1 and content.filled[0]:
            fix = "an evaluation needs two classes or more, each in a folder of its own"
            raise DataError(f"{self.train} has one class folder only: {content.filled[0]}", fix=fix)
        if len(content.filled) > 1 and not self.classes:
            raise DataError(self._stray_image(self.train), fix="move it into one")

    def why_unlabeled(self) -> str:
        """Why the test images have no labels though the training images have them, in words; empty where they have."""
        if self.test is None or not self.classes:
            return ""
        content = self.scan[self.test]
        names = [name for name in content.filled if name]
        if not content.images:
            return f"{self.test} holds no images"
        if names and len(names) < len(content.filled):
            return self._stray_image(self.test)
        there = f"folders of other classes: {', '.join(names)}" if names else "no class folders"
        return f"the test images in {self.test} have no labels, because it has {there}; classes: {', '.join(self.classes)}"

    def notes(self, folder: Path) -> Iterator[str]:
        """What is not used in the folder of a split though it may have been meant to be, a sentence each."""
        if self.left_out:
            yield f"folders of images that are in no split: {some([str(path) for path in self.left_out], 5)}"
        content = self.scan[folder]
        if content.unread:
            types = Counter(os.path.splitext(path)[1].lower() for path in content.unread)  # noqa: PTH122 - a million paths
            counted = ", ".join(f"{count:,} {suffix}" for suffix, count in types.most_common())
            yield f"{folder} has images of types that are not read ({counted}); the first is {folder / content.unread[0]}"
        empty = [name for name in content.folders if name not in content.filled and name.lower() not in KIND_OF]
        if empty and folder == self.train and self.classes:
            yield f"not classes, because they hold no images that are read: {some([str(folder / name) for name in empty], 5)}"

    def _stray_image(self, folder: Path) -> str:
        """Name an image that is where only class folders should be."""
        stray = next(file.path for file in self.scan[folder].images if "/" not in file.path)
        return f"{folder / stray} is beside folders of images, so these are not classes"


def find_layout(root: Path, named: Mapping[str, str], more_suffixes: Sequence[str] = ()) -> Layout:
    """Find the splits and classes in a folder; :class:`~sslkit.data.image_folder.ImageFolder` has the rules.

    ``named`` holds the folders of ``train``, ``test`` and ``unlabeled`` that the user has named, relative to ``root``; ``more_suffixes``
    are those of files that a decoder reads.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - a name too long for a folder is none, where Path raises
        raise DataError(f"{root} is not a folder", fix="set root in [data] to the folder of the images")
    scan, folders = FolderScan(more_suffixes), find_folders(root)
    chosen = {kind: root / name for kind, name in named.items()}
    for kind, folder in chosen.items():
        if not os.path.isdir(folder):  # noqa: PTH112
            fix = did_you_mean(named[kind], folders)
            raise OptionError(kind, f"is not a folder in {root}", found=named[kind], allowed=folders, fix=fix)
    found: dict[str, Path] = {}
    if chosen.get("train") != root:
        named_kinds = {*chosen, *(("val",) if "test" in chosen else ())}
        found = {kind: folder for kind in KINDS if kind not in named_kinds and (folder := _only(root, kind, folders, scan)) is not None}
    if not chosen:
        _check_unambiguous(root, [*found], folders, scan)
    splits = {**found, **chosen}
    train, unlabeled = splits.get("train"), splits.get("unlabeled")
    if train is None and unlabeled is None:
        if splits:
            name = next(iter(splits.values())).name
            fix = f'set train to the folder of the training images, or to "{HERE}" if {name!r} is a class'
            raise DataError(f"{root} has a folder {name!r}, but none for training", allowed=KINDS["train"], fix=fix)
        return Layout(scan, root, root, classes=scan[root].classes)
    for kind, folder in chosen.items():
        if train is not None and folder != train and folder.is_relative_to(train):
            raise OptionError(kind, "lies in the folder of the training images", found=named[kind], fix="move it out of there")
    layout = Layout(scan, unlabeled or train or root, train, classes=scan[train].classes if train else ())
    tests = [chosen["test"]] if "test" in chosen else [splits[kind] for kind in ("test", "val") if kind in splits]
    if len(tests) > 1:  # ImageNet's ``test`` comes without labels, its ``val`` with them
        tests.sort(key=lambda folder: (not layout.has_labels(folder), not scan[folder].images))
    test = tests[0] if tests else None
    taken = [folder for folder in (train, unlabeled, test) if folder]
    others = [] if train == root else [root / name for name in folders]
    beside = [other for other in others if not any(folder.is_relative_to(other) for folder in taken) and scan.holds_images(other)]
    return layout._replace(test=test, left_out=tuple(beside))


def _only(root: Path, kind: str, folders: Sequence[str], scan: FolderScan) -> Path | None:
    """The folder of one split. Where there are two of them, the one that holds images."""
    names = [name for name in folders if KIND_OF.get(name.lower()) == kind]
    if len(names) > 1:
        names = [name for name in names if scan.holds_images(root / name)] or names[:1]
    if len(names) > 1:
        option = "test" if kind == "val" else kind
        choices = " or ".join(f'{option} = "{name}"' for name in names)
        raise DataError(f"{root} has {len(names)} folders of {kind} images: {', '.join(names)}", fix=f"set {choices}")
    return root / names[0] if names else None


def _check_unambiguous(root: Path, kinds: Sequence[str], folders: Sequence[str], scan: FolderScan) -> None:
    """Refuse a folder whose subfolders may be splits or classes: either way, the wrong guess gives results that mean something else."""
    others = [name for name in folders if name.lower() not in KIND_OF]
    if kinds in (["train"], ["unlabeled"]):
        beside = [name for name in others if scan.holds_images(root / name)]
        if beside:
            split = next(name for name in folders if KIND_OF.get(name.lower()) == kinds[0])
            raise DataError(
                f"{root}: {split} is either a split or a class, because there are images beside it in {some(beside, 5)}",
                fix=f'set {kinds[0]} = "{split}" to use that folder alone, or train = "{HERE}" if every folder is a class',
            )
    if kinds:
        return
    # ``training_set``, ``train2017`` and ``Test-Images`` say what they are as well.
    words = {name: re.split(r"[^a-z]+", name.lower()) for name in reversed(others)}
    hints = {next((KIND_OF[word] for word in words[name] if word in KIND_OF), None): name for name in words}
    named = {kind: hints[kind] for kind in KINDS if kind in hints}
    if "train" in named and len(named) > 1:
        options = ", ".join(f'{"test" if kind == "val" else kind} = "{name}"' for kind, name in named.items())
        raise DataError(
            f"{root} has folders that may be splits or classes: {', '.join(sorted(named.values()))}",
            fix=f'set {options} if they are splits, or train = "{HERE}" if they are classes',
        )
    nested: dict[str, dict[str, str]] = {}
    for path in sorted({file.path.rpartition("/")[0] for file in scan[root].images}):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if kind := KIND_OF.get(parts[depth].lower()):
                nested.setdefault("/".join(parts[:depth]), {})[kind] = parts[depth]
    for folder, splits in nested.items():
        if "train" in splits and len(splits) > 1:
            raise DataError(
                f"{root / folder} holds splits: {', '.join(sorted(splits.values()))}",
                fix=f'set root to it, or train = "{HERE}" to take all images in {root} as they are',
            )
