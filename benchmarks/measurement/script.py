"""What the scripts share: their options, the images that they work on, errors in one line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from measurement.interleave import Plan
from measurement.jobs import plan_for
from measurement.results import JobResult
from measurement.workload import Workload, write_folder_images, write_random_images
from sslkit.contract.errors import OptionError, SslkitError
from sslkit.contract.runtime import Runtime


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line.

    Args:
        description: the script's docstring.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")

    def error(self, message: str) -> NoReturn:
        """See :class:`argparse.ArgumentParser`."""
        self.exit(2, f"error: {message}\n")

    def add_sizes(self) -> None:
        """The options of a script that trains."""
        self.add_argument("--width", type=positive(float), default=1.0, help="factor on the network's channels (default 1)")
        self.add_argument("--batch-size", type=positive(int), default=128, help="source images a step (default 128)")
        self.add_argument("--images", type=positive(int), default=50_000, help="random images to train on (default 50,000)")

    def add_plan(self) -> None:
        """The options of a script that measures in turns."""
        self.add_argument("--quick", action="store_true", help="less of everything: about two minutes")
        self.add_argument("--rounds", type=positive(int), help="turns of each variant (default 5; quick: 3)")
        self.add_argument("--seconds", type=float, help="at least so many a turn (default 5; quick: one step)")


def run_script(work: Callable[[], int]) -> int:
    """The exit code: 2 for a user's mistake, with one line that says what it was."""
    try:
        return work()
    except SslkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def plan(arguments: argparse.Namespace, *, seconds: float | None = None) -> Plan:
    """How to measure.

    Args:
        arguments: with the options of :meth:`Parser.add_plan`.
        seconds: at least so many a turn, where the user says nothing.
    """
    default = (0.0 if arguments.quick else 5.0) if seconds is None else seconds
    return plan_for(
        Runtime().resolve_device(),
        rounds=arguments.rounds or (3 if arguments.quick else 5),
        seconds=default if arguments.seconds is None else arguments.seconds,
        quick=arguments.quick,
    )


@contextmanager
def workload(arguments: argparse.Namespace, *, images: int | None = None, size: int = 32, root: Path | None = None) -> Iterator[Workload]:
    """Pretraining with its images in a temporary folder; other jobs are made of it with ``dataclasses.replace``.

    Args:
        arguments: with the options of :meth:`Parser.add_sizes`.
        images: how many to train on; None: as the user says.
        size: of the images, in pixels.
        root: a folder of images to take; None: random ones.

    Raises:
        OptionError: there are fewer images than a batch has.
        DataError: there are no images in ``root``.
    """
    num_train = arguments.images if images is None else images
    with TemporaryDirectory(prefix="sslkit-benchmark-") as name:
        folder = Path(name)
        if root is None:
            write_random_images(folder, num_train=num_train, num_test=max(1, num_train // 5), size=size)
        else:
            write_folder_images(folder, root, size)
        made = Workload(job="pretrain", folder=folder, batch_size=arguments.batch_size, width=arguments.width)
        available = len(made.images("train"))
        if made.batch_size > available:
            raise OptionError("--batch-size", "is larger than the data", found=made.batch_size, allowed=f"1 to {available} images")
        yield made


def report_problems(results: Mapping[str, JobResult]) -> int:
    """A line for each variant that failed; 1 if there is one, else 0. What is not installed is no failure: the table says so."""
    failed = [
        f"{job}, {name}: {record.problem}"
        for job, result in results.items()
        for name, record in result.records.items()
        if record.problem.startswith("failed")
    ]
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse: a number above zero."""

    def positive_number(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive; found {text}")
        return value

    return positive_number
