"""The process that is killed: ``sslkit run``, perhaps with a bomb in it.

    python -m survival.victim [--streamed] [--kill-at-write N] [--count-writes FILE] -- run RECIPE ...

A write is what changes a disk: a file that is created, flushed, renamed or removed. The process ends by SIGKILL right before the N-th.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sslkit.cli import commands as cli
from sslkit.data import cache


class Bomb:
    """Counts writes, and kills the process right before one of them.

    Args:
        kill_at: the number of that write, counted from 1; 0: none.
    """

    def __init__(self, kill_at: int) -> None:
        self.count = 0
        self._kill_at = kill_at
        self._process = os.getpid()

    def wire(self) -> None:
        """Put it into the system's calls."""
        for name in ("fsync", "replace", "unlink", "mkdir", "rename"):
            setattr(os, name, self._wired(getattr(os, name), lambda _arguments: True))
        os.open = self._wired(os.open, lambda arguments: len(arguments) > 1 and bool(arguments[1] & os.O_CREAT))

    def _wired(self, call: Callable[..., Any], writes: Callable[[tuple], bool]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if os.getpid() == self._process and writes(arguments):  # not in workers, which are forked with the count so far
                self.count += 1
                if self.count == self._kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return called


def main() -> None:
    """Run it."""
    split = sys.argv.index("--")
    own, command = sys.argv[1:split], sys.argv[split + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--kill-at-write", type=int, default=0)
    parser.add_argument("--count-writes", type=Path)
    arguments = parser.parse_args(own)
    if arguments.streamed:
        cache.MAX_RESIDENT_BYTES = 0
    bomb = Bomb(arguments.kill_at_write)
    bomb.wire()
    sys.argv = ["sslkit", *command]
    try:
        cli.main()
    finally:
        if arguments.count_writes:
            arguments.count_writes.write_text(str(bomb.count), encoding="utf-8")


if __name__ == "__main__":
    main()
