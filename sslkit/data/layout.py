"""Which subfolders of a folder of images are its splits and its classes."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sslkit.contract.errors import DataError, OptionError, did_you_mean
from sslkit.data.folder_scan import SUFFIXES, FolderScan, find_folders, first_folder, holds_images
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
    """Which folder holds which split; the same folder may hold two.

    Attributes:
        pretrain: images to pretrain on.
        train: training images, or None.
        test: test images, or None.
        classes: the classes in ``train``; empty without labels.
        left_out: other folders beside these that hold images.
    """

    pretrain: Path
    train: Path | None
    test: Path | None
    classes: tuple[str, ...]
    left_out: tuple[Path, ...] = ()

    @property
    def held_out_from(self) -> Path:
        """Whose images a part of is held out, where there is no test split."""
        return self.train or self.pretrain


def find_layout(root: Path, scan: FolderScan, named: Mapping[str, str]) -> Layout:
    """Find the splits and classes in a folder; :class:`~sslkit.data.image_folder.ImageFolder` has the rules.

    Args:
        root: the folder.
        scan: reads folders.
        named: the folders of ``train``, ``test`` and ``unlabeled`` that the user has named, relative to ``root``.

    Raises:
        DataError: there is no such folder, it has a test split but nothing to train on, or it can be understood in two ways.
        OptionError: a folder that the user has named is not there.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - a name too long for a folder is none, where Path raises
        raise DataError(f"{root} is not a folder", fix="set root in [data] to the folder of the images")
    folders = find_folders(root)
    chosen = {kind: _named(root, kind, name, folders) for kind, name in named.items()}
    if chosen.get("train") == root:
        found: dict[str, Path] = {}
    else:
        named_kinds = {*chosen, *(("val",) if "test" in chosen else ())}
        found = {kind: folder for kind in KINDS if kind not in named_kinds and (folder := _only(root, kind, folders)) is not None}
    splits = {**found, **chosen}
    if not chosen:
        _check_unambiguous(root, [*found], folders, scan)
    train, unlabeled = splits.get("train"), splits.get("unlabeled")
    if train is None and unlabeled is None:
        if splits:
            name = next(iter(splits.values())).name
            fix = f'set train to the folder of the training images, or to "{HERE}" if {name!r} is a class'
            raise DataError(f"{root} has a folder {name!r}, but none for training", allowed=KINDS["train"], fix=fix)
        return Layout(root, root, None, scan.classes(root))
    for kind, folder in chosen.items():
        if train is not None and folder != train and folder.is_relative_to(train):
            raise OptionError(kind, "lies in the folder of the training images", found=named[kind], fix="move it out of there")
    classes = scan.classes(train) if train else ()
    tests = [chosen["test"]] if "test" in chosen else [splits[kind] for kind in ("test", "val") if kind in splits]
    test = _choose_test(tests, classes, scan)
    taken = [folder for folder in (train, unlabeled, test) if folder]
    others = [] if train == root else [root / name for name in folders]
    beside = [other for other in others if not any(folder.is_relative_to(other) for folder in taken) and holds_images(other)]
    return Layout(unlabeled or train or root, train, test, classes, tuple(beside))


def check_images(folder: Path, scan: FolderScan) -> None:
    """Refuse a folder without images.

    Raises:
        DataError: says what counts as one.
    """
    if not scan.images(folder):
        unread = scan.content(folder).unread
        instead = f" of a type that is read, but {unread[0]}" if unread else ""
        raise DataError(f"{folder} holds no images{instead}", allowed=f"files that end in {', '.join(SUFFIXES)}, at any depth")


def check_labels(layout: Layout, scan: FolderScan) -> None:
    """Refuse training images whose folders nearly are classes: whoever made them meant labels.

    Raises:
        DataError: there are no images, there is one class folder only, images lie beside class folders, or all images of a class are
            of types that are not read.
    """
    if layout.train is None:
        return
    check_images(layout.train, scan)
    names = scan.subfolders(layout.train)
    if lost := next((path for path in scan.content(layout.train).unread if first_folder(path) not in ("", *names)), None):
        folder = layout.train / first_folder(lost)
        raise DataError(f"{folder} holds no images that are read, but {layout.train / lost}", allowed=SUFFIXES, fix="convert its images")
    if layout.classes:
        return
    if len(names) == 1 and names[0]:
        fix = "an evaluation needs two classes or more, each in a folder of its own"
        raise DataError(f"{layout.train} has one class folder only: {names[0]}", fix=fix)
    if len(names) > 1:
        raise DataError(stray_image(layout.train, scan), fix="move it into one")


def has_labels(folder: Path, classes: Sequence[str], scan: FolderScan) -> bool:
    """Whether test images have labels: all of them lie in class folders, one of which is a training class too."""
    names = scan.subfolders(folder)
    return "" not in names and any(same_class(name) in {same_class(known) for known in classes} for name in names)


def why_unlabeled(folder: Path, classes: Sequence[str], scan: FolderScan) -> str:
    """What keeps the images of a test split from having labels, in words."""
    names = [name for name in scan.subfolders(folder) if name]
    if not scan.images(folder):
        return f"{folder} holds no images"
    if names and len(names) < len(scan.subfolders(folder)):
        return stray_image(folder, scan)
    there = f"folders of other classes: {', '.join(names)}" if names else "no class folders"
    return f"the test images in {folder} have no labels, for it has {there}; classes: {', '.join(classes)}"


def describe_rest(folder: Path, layout: Layout, scan: FolderScan) -> Iterator[str]:
    """What is not used though it might have been meant to be: in words, a sentence each.

    Args:
        folder: of one split.
        layout: where the others are.
        scan: reads folders.
    """
    if layout.left_out:
        yield f"folders of images that no split takes: {_some([str(path) for path in layout.left_out])}"
    content = scan.content(folder)
    if content.unread:
        types = Counter(os.path.splitext(path)[1].lower() for path in content.unread)  # noqa: PTH122 - a million paths
        counted = ", ".join(f"{count:,} {suffix}" for suffix, count in types.most_common())
        yield f"{folder} has images of types that are not read ({counted}); the first is {folder / content.unread[0]}"
    empty = [name for name in content.folders if name not in scan.subfolders(folder) and KIND_OF.get(name.lower()) is None]
    if empty and folder == layout.train and layout.classes:
        yield f"no class, for want of images that are read: {_some([str(folder / name) for name in empty])}"


def stray_image(folder: Path, scan: FolderScan) -> str:
    """Name an image that lies where only class folders should."""
    stray = next(file.path for file in scan.images(folder) if "/" not in file.path)
    return f"{folder / stray} lies beside folders of images, so that these are no classes"


def _named(root: Path, kind: str, name: str, folders: Sequence[str]) -> Path:
    folder = root if name == HERE else root / name
    if not os.path.isdir(folder):  # noqa: PTH112
        raise OptionError(kind, f"is no folder in {root}", found=name, allowed=folders, fix=did_you_mean(name, folders))
    return folder


def _only(root: Path, kind: str, folders: Sequence[str]) -> Path | None:
    """The folder of one split. Where there are two of them, the one that holds images."""
    names = [name for name in folders if KIND_OF.get(name.lower()) == kind]
    if len(names) > 1:
        names = [name for name in names if holds_images(root / name)] or names[:1]
    if len(names) > 1:
        option = "test" if kind == "val" else kind
        choices = " or ".join(f'{option} = "{name}"' for name in names)
        raise DataError(f"{root} has {len(names)} folders of {kind} images: {', '.join(names)}", fix=f"set {choices}")
    return root / names[0] if names else None


def _check_unambiguous(root: Path, kinds: Sequence[str], folders: Sequence[str], scan: FolderScan) -> None:
    """Refuse a folder whose subfolders may be splits or classes: either way, the wrong guess gives results that mean something else."""
    others = [name for name in folders if KIND_OF.get(name.lower()) is None]
    if kinds in (["train"], ["unlabeled"]):
        beside = [name for name in others if holds_images(root / name)]
        if beside:
            split = next(name for name in folders if KIND_OF.get(name.lower()) == kinds[0])
            raise DataError(
                f"{root}: {split} is either a split or a class, for there are images beside it in {_some(beside)}",
                fix=f'set {kinds[0]} = "{split}" to use that folder alone, or train = "{HERE}" if every folder is a class',
            )
    if kinds:
        return
    hints = {_loose_kind(name): name for name in reversed(others)}
    named = {kind: hints[kind] for kind in KINDS if kind in hints}
    if "train" in named and len(named) > 1:
        options = ", ".join(f'{"test" if kind == "val" else kind} = "{name}"' for kind, name in named.items())
        raise DataError(
            f"{root} has folders that may be splits or classes: {', '.join(sorted(named.values()))}",
            fix=f'set {options} if they are splits, or train = "{HERE}" if they are classes',
        )
    if nested := _nested_splits(scan.images(root).folders()):
        folder, names = nested
        raise DataError(
            f"{root / folder} holds splits: {', '.join(names)}",
            fix=f'set root to it, or train = "{HERE}" to take all images in {root} as they are',
        )


def _loose_kind(name: str) -> str | None:
    """``training_set``, ``train2017`` and ``Test-Images`` say what they are as well."""
    return next((KIND_OF[word] for word in re.split(r"[^a-z]+", name.lower()) if word in KIND_OF), None)


def _nested_splits(folders: set[str]) -> tuple[str, list[str]] | None:
    """The first folder below the root, of ``folders`` with images, that has one subfolder to train on and one to test with."""
    kinds: dict[str, dict[str, str]] = {}
    for path in sorted(folders):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if kind := KIND_OF.get(parts[depth].lower()):
                kinds.setdefault("/".join(parts[:depth]), {})[kind] = parts[depth]
    return next(((parent, sorted(found.values())) for parent, found in kinds.items() if found.keys() & {"train"} and len(found) > 1), None)


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _choose_test(tests: Sequence[Path], classes: tuple[str, ...], scan: FolderScan) -> Path | None:
    """ImageNet's ``test`` comes without labels, its ``val`` with them."""
    labeled = [folder for folder in tests if has_labels(folder, classes, scan)] if classes and len(tests) > 1 else []
    filled = [folder for folder in tests if scan.images(folder)] if len(tests) > 1 else []
    return next(iter([*labeled, *filled, *tests]), None)
