"""The first part of a slice: does it work at all on this device?

    python -m slicing.smoke --out smoke.json --tests tests --device cuda

A tiny run is killed in the middle and resumed, and must end with the bits of one that was not. At the same time the tests that need a GPU
run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from measurement.environment import describe_environment
from slicing import each_test
from slicing.results import write_result
from survival.trial import Trial
from survival.variants import deterministic_on


def main() -> int:
    """Returns 1 if a run lost something or a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tests", type=Path, required=True, help="the folder of the tests")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"environment": describe_environment(), "resumed": None, "collected": 0, "tests": []}
    write_result(arguments.out, report)
    # At the same time: starting programs is most of what either does.
    with tempfile.TemporaryDirectory(prefix="sslkit-smoke-") as folder, ThreadPoolExecutor() as pool:
        log = Path(folder) / "tests.jsonl"
        resumed, tests = pool.submit(resume, Path(folder), arguments.device), pool.submit(run_tests, arguments.tests, log)
        both: list[Future[Any]] = [resumed, tests]
        ended = False
        while not ended:
            ended = not wait(both, timeout=0.5).not_done
            found = {**report, **read_tests(log), "resumed": resumed.result() if resumed.done() else None}
            if found != report:
                report = found
                write_result(arguments.out, report)
    failed = [test["name"] for test in report["tests"] if test["outcome"] == "failed"]
    print(f"killed and resumed: {'same bits' if not report['resumed']['problems'] else report['resumed']['problems']}")
    print(
        f"{len(report['tests'])} of {report['collected']} tests for a GPU ended, failed: {failed or 'none'}; pytest ended with {tests.result()}"
    )
    fine = not report["resumed"]["problems"] and tests.result() in (0, 5)  # 5: there are none
    return int(not fine)


def resume(folder: Path, device: str) -> dict[str, Any]:
    """Run the recipe undisturbed, then killed right before a random write and resumed; compare what both left."""
    trial = Trial("smoke", deterministic_on(device), folder, seed=0)
    try:
        trial.run_whole()
        trial.survive(times=0, writes=1)
    except RuntimeError as error:  # a run that fails although nobody disturbs it: the tests may tell why
        return {"problems": [str(error)], "kills": 0}
    toll = trial.toll
    return {"problems": toll.problems, "kills": sum(toll.kills.values()), "killed": list(toll.moments), "seconds": round(trial.seconds, 1)}


def run_tests(folder: Path, log: Path) -> int:
    """Run the tests that are marked ``gpu``, with a line in the log for each as soon as it has ended; returns pytest's exit code."""
    # Without the options of pyproject.toml: one process has the GPU, and pytest-xdist need not be there.
    options = ["-o", "addopts=", "--import-mode=importlib", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--no-header"]
    options += ["-p", each_test.__name__, f"--each-test={log}"]
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    return subprocess.run(command, cwd=folder.parent, stdout=sys.stderr, check=False).returncode


def read_tests(log: Path) -> dict[str, Any]:
    """How many tests there are, and what became of each that has ended."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    return {"collected": sum(line.get("collected", 0) for line in lines), "tests": [line for line in lines if "name" in line]}


if __name__ == "__main__":
    sys.exit(main())
