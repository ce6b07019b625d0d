"""Runs that are signalled, limited, and met by others in their folder; each in a process of its own."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from sslkit import ArtifactError, Event, Observer, RunInterruptedError, StepEnd, load_recipe, run_recipe
from sslkit.storage.folder_lock import LOCK, OWNER
from sslkit.storage.metrics_log import read_metrics
from tests.recipes import LONG, SMALL, has_trained, start, steps_logged, wait_until, weights

pytestmark = pytest.mark.slow  # processes of their own


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(LONG)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(LONG)
    return run_recipe(load_recipe(folder / "small.toml"), output=folder / "run").folder


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "pretrain").glob("checkpoint-*.safetensors"))


def finish(recipe: Path, folder: Path, *arguments: str) -> None:
    process = start(recipe, folder, *arguments)
    output = process.communicate()
    assert process.returncode == 0, output


# ------------------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_leaves_a_checkpoint_a_code_and_the_command_to_resume(
    number: int, name: str, code: int, recipe: Path, whole: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start(recipe, folder, "--fresh", "log_every=2")
    wait_until(has_trained(folder), process)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    (line,) = err.splitlines()
    step = int(checkpoints(folder)[-1].stem.rpartition("-")[2])
    assert line == (
        f"{name}: stopped in stage 'pretrain' after {step} steps; resume with: sslkit run {recipe} --quiet --output {folder} log_every=2"
    )
    assert not (folder / OWNER).exists()
    if number == signal.SIGTERM:  # a start takes seconds, and what comes after does not depend on who asked
        finish(recipe, folder)
        assert weights(folder) == weights(whole)


STREAMED = "from sslkit.data import cache\ncache.MAX_RESIDENT_BYTES = 0\nfrom sslkit.cli.commands import main\nmain()\n"


@pytest.fixture
def streamed(tmp_path: Path) -> list[str]:
    """The command of a run whose images are decoded by workers as they are needed."""
    for split, number in (("train", 40), ("test", 4)):
        for index in range(number):
            path = tmp_path / "images" / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (index, 0, 0)).save(path)
    (tmp_path / "stream.py").write_text(STREAMED)
    recipe = tmp_path / "small.toml"
    data = f'[data]\nname = "image_folder"\nroot = "{tmp_path / "images"}"\nimage_size = 16\n'
    recipe.write_text(LONG.replace('[data]\nname = "digits"\n', data).replace("batch_size = 500", "batch_size = 4"))
    return [sys.executable, str(tmp_path / "stream.py"), "run", str(recipe), "--quiet", "--output", str(tmp_path / "run")]


def begin(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """A run's processes that decode images, once there are some: of one epoch after the other."""
    found: list[int] = []
    tasks = Path(f"/proc/{process.pid}/task")

    def begun() -> bool:
        lists = [task / "children" for task in tasks.iterdir()]
        found[:] = [int(pid) for path in lists if path.exists() for pid in path.read_text().split()]
        return len(found) >= 1

    wait_until(begun, process)
    return found


def test_a_run_whose_workers_are_stalled_stops_when_it_is_reported_to(streamed: list[str], tmp_path: Path):
    process = begin([*streamed, "num_workers=2", "stages.pretrain.epochs=100000"])
    wait_until(has_trained(tmp_path / "run"), process)
    while True:  # an epoch may end in between, and its workers with it
        for pid in workers(process):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        before = has_trained_steps(tmp_path / "run")
        time.sleep(0.5)
        if has_trained_steps(tmp_path / "run") == before:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, ""), err
    assert re.fullmatch(r"SIGTERM: stopped in stage 'pretrain' after \d+ steps; resume with: .*\n", err)
    assert checkpoints(tmp_path / "run")


def has_trained_steps(folder: Path) -> int:
    return len(read_metrics(folder / "pretrain" / "metrics.jsonl"))


@pytest.mark.slow
def test_small_shared_memory_is_said_and_the_run_ends_well(streamed: list[str]):
    command = [part for part in streamed if part != "--quiet"]
    command += ["stages.pretrain.epochs=2", "stages.pretrain.batch_size=40", "data.image_size=64"]
    small = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {shlex.join(command)}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True, text=True, timeout=300, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("needs a private mount of /dev/shm")
    assert done.returncode == 0, done.stderr
    assert "images are decoded by the run's own process, which is slower, because shared memory is small (/dev/shm: 1 MiB" in done.stderr


def test_a_signal_to_the_whole_process_group_lets_workers_finish_the_step(streamed: list[str], tmp_path: Path):
    """What a scheduler and a terminal do: every process gets it, the loader's workers too."""
    folder, process = tmp_path / "run", begin(streamed)
    wait_until(has_trained(folder), process)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (143, ""), err
    assert err.startswith("SIGTERM: stopped in stage 'pretrain' after "), err
    assert checkpoints(folder)


@pytest.mark.usefixtures("recipe")
def test_sigterm_before_the_first_stage_is_reported_as_well(tmp_path: Path):
    (tmp_path / "early.py").write_text(
        "import os, signal\nfrom sslkit.cli import commands as cli\nfrom sslkit.run import runner\nrunner.check = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\ncli.main()\n"
    )
    command = [sys.executable, "early.py", "run", "small.toml", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "SIGTERM; resume with: sslkit run small.toml --quiet\n")


def test_a_second_sigterm_changes_nothing(recipe: Path, tmp_path: Path):
    process = start(recipe, tmp_path / "run")
    wait_until(has_trained(tmp_path / "run"), process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert checkpoints(tmp_path / "run")


class Slow(Observer):
    """Makes every step take a while."""

    def observe(self, event: Event) -> None:
        if isinstance(event, StepEnd):
            time.sleep(0.1)


def test_time_that_is_up_leaves_a_checkpoint_and_a_code(recipe: Path, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(RunInterruptedError, match=r"^the 0\.05 minutes are up: stopped (in|before) stage 'pretrain'") as caught:
        run_recipe(load_recipe(recipe), output=folder, max_minutes=0.05, observers=[Slow()])
    assert caught.value.exit_code == 75
    run_recipe(load_recipe(recipe), output=folder)
    assert weights(folder) == weights(whole)
    assert steps_logged(folder / "pretrain" / "metrics.jsonl") == steps_logged(whole / "pretrain" / "metrics.jsonl")


# --------------------------------------------------------------------------------------------------------- one at a time


def test_a_second_process_in_the_folder_is_refused_and_reported_who_is_there(recipe: Path, tmp_path: Path):
    folder = tmp_path / "run"
    first = start(recipe, folder, "stages.pretrain.epochs=10000")
    wait_until(has_trained(folder), first)
    second = start(recipe, folder, "--fresh")
    out, err = second.communicate()
    assert (second.returncode, out) == (2, "")
    assert err == (
        f"error: {folder}: process {first.pid} on {socket.gethostname()} is running in this folder; "
        "wait until it ends, or choose another folder with --output\n"
    )
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 143


def test_the_claim_of_a_dead_process_is_taken_over(recipe: Path, tmp_path: Path):
    folder = tmp_path / "run"
    first = start(recipe, folder)
    wait_until(has_trained(folder), first)
    first.kill()
    first.communicate()
    assert json.loads((folder / OWNER).read_text()) == {"pid": first.pid, "host": socket.gethostname()}
    command = [sys.executable, "-m", "sslkit", "run", str(recipe), "--output", str(folder), "--max-minutes", "0"]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 75
    assert f"process {first.pid} on {socket.gethostname()} left this run without finishing: resuming in its place" in second.stderr
    assert not (folder / OWNER).exists()


def test_two_runs_in_one_process_do_not_meet_either(tmp_path: Path):
    (tmp_path / "small.toml").write_text(SMALL)
    recipe = load_recipe(tmp_path / "small.toml")

    def meet() -> bool:
        with pytest.raises(ArtifactError, match=rf"process {os.getpid()} on .* is running in this folder"):
            run_recipe(recipe, output=tmp_path / "run")
        return False

    run_recipe(recipe, output=tmp_path / "run", should_stop=meet)
    assert sorted(path.name for path in (tmp_path / "run").glob(".*")) == [LOCK]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_folder_is_gone_ends_in_one_line_and_leaves_nothing_behind(replaced: bool, recipe: Path, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    process = start(recipe, folder, "checkpoint_minutes=0")
    wait_until(has_trained(folder), process)
    shutil.move(folder, tmp_path / "elsewhere")
    if replaced:
        folder.mkdir()
        (folder / LOCK).touch()
    out, err = process.communicate()
    assert (process.returncode, out) == (1, ""), err
    (line,) = err.splitlines()
    assert line.startswith(f"error: {folder}")
    assert "removed or" in line
    assert not folder.exists() or {path.name for path in folder.iterdir()} == {LOCK}
    if not replaced:  # what was moved away is still good
        shutil.move(tmp_path / "elsewhere", folder)
        finish(recipe, folder)
        assert weights(folder) == weights(whole)
