"""A slice of time on a GPU machine without network: pack what it lacks, measure there what is missing, merge the results at home.

python benchmarks/slice.py pack .slice --images cifar10.tar.xz              # here: one folder of at most 45 MiB
python3 .slice/slice.py run --from .slice --minutes 8 --out results         # there
python benchmarks/slice.py merge results                                    # here: into docs/ and recipes/weights/

docs/offline.md explains each step. `run --device cpu --rehearse` does the same in small, on any machine.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "source" / "benchmarks"
"""Where the rest of the scripts are in a packed folder. In a checkout they lie beside this one."""

sys.path.insert(0, str(SOURCE if SOURCE.is_dir() else HERE))

from slicing.errors import SliceError  # noqa: E402 - it is found on the path that was just set


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """See :class:`argparse.ArgumentParser`."""
        self.exit(2, f"error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for a user's mistake, 1 where a part of a slice failed."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except SliceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="pack | run | merge")

    pack = commands.add_parser("pack", help="gather what a machine without network lacks")
    pack.add_argument("folder", type=Path, help="made anew; let git ignore it")
    pack.add_argument(
        "--images", type=Path, metavar="ARCHIVE", help="CIFAR-10 as train/<class>/* and test/<class>/* (default: $SSLKIT_CIFAR10_JPEG)"
    )
    pack.add_argument(
        "--data", default="CIFAR-10 (JPEG)", metavar="WORDS", help="what the records say the images are (default: %(default)s)"
    )
    pack.add_argument(
        "--earlier", type=Path, metavar="ARCHIVE", help="runs of an earlier slice to resume (default: benchmarks/earlier.tar, if it exists)"
    )
    pack.add_argument(
        "--python", type=_python, default="3.12", metavar="VERSION", help="of the machine (default: %(default)s); Linux on x86_64"
    )
    pack.add_argument("--dirty", action="store_true", help="pack uncommitted changes too; what they measure cannot be merged")
    _answer(pack, _pack)

    run = commands.add_parser("run", help="install, measure, and write each result as soon as it exists")
    run.add_argument("--from", dest="folder", type=Path, required=True, metavar="FOLDER", help="that `pack` made")
    run.add_argument("--minutes", type=_positive, required=True, help="for everything, the installation included")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results: at most 8 files of at most 16 MiB")
    run.add_argument(
        "--parts", nargs="+", default=["smoke", "speed", "fidelity"], choices=["smoke", "speed", "fidelity"], help="which (default: all)"
    )
    run.add_argument("--device", default="cuda", help="(default: %(default)s)")
    run.add_argument("--rehearse", action="store_true", help="a tenth of the width and a handful of steps; cannot be merged into docs/")
    _answer(run, _run)

    merge = commands.add_parser("merge", help="take the results into docs/ and recipes/weights/")
    merge.add_argument("results", type=Path, metavar="DIR", help="that `run` wrote")
    merge.add_argument("--into", type=Path, metavar="CHECKOUT", help="(default: this one)")
    merge.add_argument("--rehearsal", action="store_true", help="merge a rehearsal into a copy of the checkout, given by --into")
    _answer(merge, _merge)
    return parser


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be positive; found {text}")
    return float(text)


def _python(text: str) -> str:
    if not re.fullmatch(r"3\.\d+", text):
        raise argparse.ArgumentTypeError(f"is no version; found {text}; allowed 3.11, 3.12 ...")
    return text


def _answer(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.set_defaults(command=command)


def _pack(arguments: argparse.Namespace) -> int:
    from slicing.pack import pack

    given = arguments.images or os.environ.get("SSLKIT_CIFAR10_JPEG")
    if not given:
        raise SliceError("--images: is missing; give an archive, or set SSLKIT_CIFAR10_JPEG")
    packed = pack(
        arguments.folder, images=Path(given), data=arguments.data, earlier=arguments.earlier, python=arguments.python, dirty=arguments.dirty
    )
    print(packed)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from slicing.run import run

    return run(
        arguments.folder,
        arguments.out,
        minutes=arguments.minutes,
        parts=arguments.parts,
        device=arguments.device,
        rehearse=arguments.rehearse,
    )


def _merge(arguments: argparse.Namespace) -> int:
    from slicing.merge import merge

    print("\n".join(merge(arguments.results, checkout=arguments.into, rehearsal=arguments.rehearsal)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
