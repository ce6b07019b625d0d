"""A slice: what is packed, installed, run within its budgets and merged, and what is refused on the way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from PIL import Image

import reproduce
import slice as script
from slicing import install, merge as merging, pack, rehearsal, run
from slicing.errors import SliceError
from slicing.install import Wheel, missing
from slicing.layout import MANIFEST, MAX_FILE, MAX_WEIGHTS, RESULTS
from slicing.run import fastest
from sslkit.recipe.toml import read_table

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
HERE = frozenset({Tag("py3", "none", "any"), Tag("cp312", "cp312", "manylinux_2_17_x86_64")})
"""Tags of the machine that a slice is installed on."""


def make_wheel(folder: Path, name: str, version: str, *requirements: str, tag: str = "py3-none-any") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
    return path


# ------------------------------------------------------------------------------------------------------------------ installing


@pytest.fixture
def packed(tmp_path: Path) -> list[Wheel]:
    """sslkit needs torch (which is never packed), a compiled package with needs of its own, and a small one."""
    wheels = [
        make_wheel(tmp_path, "sslkit", "0.1", "torch>=2.6", "compiled>=2", "small", 'pytest>=8; extra == "test"', 'ruff; extra == "test"'),
        make_wheel(tmp_path, "compiled", "2.5", "core==7", 'elsewhere; sys_platform == "win32"', tag="cp312-cp312-manylinux_2_17_x86_64"),
        make_wheel(tmp_path, "core", "7", tag="cp312-cp312-manylinux_2_17_x86_64"),
        make_wheel(tmp_path, "small", "1.0"),
        make_wheel(tmp_path, "pytest", "9.0"),
    ]
    return [Wheel.read(path) for path in wheels]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"torch": "2.11"}, {"sslkit", "compiled", "core", "small", "pytest"}),
        ({"torch": "2.11.0+cu130", "compiled": "2.0", "pytest": "9.9"}, {"sslkit", "small"}),  # core is what is there's business
        ({"torch": "2.11", "compiled": "1.9", "core": "7", "small": "0.1", "pytest": "8"}, {"sslkit", "compiled"}),  # too old
        # sslkit is this commit's, whatever is there.
        ({"torch": "2.11", "compiled": "2.0", "small": "3", "pytest": "8", "sslkit": "9.9"}, {"sslkit"}),
        ({"torch": "2.12.0rc1", "compiled": "2", "small": "1", "pytest": "8.0"}, {"sslkit"}),
    ],
)
def test_only_what_is_missing_or_too_old_is_installed(packed: list[Wheel], there: dict[str, str], chosen: set[str]) -> None:
    assert {wheel.name for wheel in missing(packed, there.get, HERE)} == chosen


def test_a_wheel_for_another_python_is_left_out_where_its_package_is_there(packed: list[Wheel]) -> None:
    other = frozenset({Tag("py3", "none", "any"), Tag("cp311", "cp311", "manylinux_2_17_x86_64")})
    there = {"torch": "2.6", "pytest": "8", "compiled": "2.1"}
    assert {wheel.name for wheel in missing(packed, there.get, other)} == {"sslkit", "small"}
    with pytest.raises(SliceError) as caught:
        missing(packed, {**there, "compiled": "1.0"}.get, other)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert str(caught.value) == (
        "packages are missing here: compiled>=2 (1.0) is packed as compiled-2.5-cp312-cp312-manylinux_2_17_x86_64.whl, which this"
        f" interpreter does not take; pack again with --python {python}, or install them"
    )


def test_all_that_is_missing_and_not_packed_is_named_at_once(packed: list[Wheel]) -> None:
    with pytest.raises(SliceError, match=r"torch>=2\.6 \(not installed\) is not packed") as caught:
        missing([wheel for wheel in packed if wheel.name != "small"], {}.get, HERE)
    assert "small (not installed) is not packed" in str(caught.value)
    assert "elsewhere" not in str(caught.value)  # of another system
    assert "ruff" not in str(caught.value)  # a tool that no slice needs


@pytest.mark.slow
def test_installing_touches_nothing_but_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    content = make_wheel(wheels, "sslkit", "9.9", "numpy")
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("sslkit/__init__.py", "")
        archive.writestr("sslkit-9.9.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("sslkit-9.9.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")  # nobody answers: no index is asked
    assert install.install(wheels, tmp_path / "site") == ["sslkit 9.9"]
    assert (tmp_path / "site" / "sslkit" / "__init__.py").exists()


# --------------------------------------------------------------------------------------------------------------------- packing


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for pip: what it is asked for is made, and remembered."""
    asked: list[list[str]] = []
    known = {
        "alpha": ("2.0", ["beta>=1", "numpy"]),
        "beta": ("1.5", ['gamma; python_version >= "3.13"']),
        "gamma": ("1", []),
        "pytest": ("9", []),
    }

    def pip(command: str, *arguments: str) -> None:
        asked.append([command, *arguments])
        if command == "wheel":
            folder = Path(arguments[arguments.index("--wheel-dir") + 1])
            make_wheel(folder, "sslkit", "0.1", "torch", "alpha>=1", 'pytest; extra == "test"', 'ruff; extra == "test"')
            return
        folder = Path(arguments[arguments.index("--dest") + 1])
        for wanted in arguments[arguments.index("manylinux1_x86_64") + 1 :]:
            name = wanted.partition(">")[0]
            make_wheel(folder, name, known[name][0], *known[name][1])

    monkeypatch.setattr(pack, "_pip", pip)
    monkeypatch.setattr(pack, "checkout_commit", lambda: "0123456789ab")
    return asked


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of ten classes, as few as a rehearsal takes."""
    target = tmp_path_factory.mktemp("archive")
    for split in ("train", "test"):
        for label in range(10):
            folder = target / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(40):
                Image.new("RGB", (32, 32), (20 * label, 6 * index, 99)).save(folder / f"{index:04d}.jpg")
    with tarfile.open(target / "images.tar.xz", "w:xz") as file:
        for split in ("train", "test"):
            file.add(target / "images" / split, split)
    return target / "images.tar.xz"


def wheels_in(folder: Path) -> set[str]:
    return {parse_wheel_filename(path.name)[0] for path in (folder / "wheels").glob("*.whl")}


def test_a_folder_holds_what_the_machine_lacks(index: list[list[str]], archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slice"
    line = pack.pack(folder, images=archive, data="ten colours")
    assert wheels_in(folder) == {"sslkit", "alpha", "beta", "pytest"}  # not torch, numpy, ruff, nor what another Python needs
    assert "4 wheels, commit 0123456789ab" in line
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["commit"] == "0123456789ab"
    assert manifest["images"]["data"] == "ten colours"
    assert (folder / "slice.py").read_bytes() == (BENCHMARKS / "slice.py").read_bytes()
    for name in ("benchmarks/gpu.py", "benchmarks/slicing/smoke.py", "recipes/rotnet_cifar10.toml", "tests/conftest.py", "pyproject.toml"):
        assert (folder / "source" / name).read_bytes() == (ROOT / name).read_bytes()
    marked = {path.relative_to(folder / "source") for path in (folder / "source" / "tests").rglob("test_*.py")}
    assert marked == {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()}
    for path in marked:  # other tests are not packed
        assert not re.search(r"^(from|import) tests\..*\btest_", (ROOT / path).read_text(), re.MULTILINE), path
    downloads = [command for command in index if command[0] == "download"]
    assert all(command[command.index("--python-version") + 1] == "3.12" for command in downloads)


def test_another_python_gets_its_own_wheels(index: list[list[str]], archive: Path, tmp_path: Path) -> None:
    pack.pack(tmp_path / "slice", images=archive, data="x", python="3.13")
    assert "gamma" in wheels_in(tmp_path / "slice")
    assert all(command[command.index("--python-version") + 1] == "3.13" for command in index[1:])


@pytest.mark.usefixtures("index")
def test_packing_again_replaces_the_folder_and_carries_earlier_runs(archive: Path, tmp_path: Path) -> None:
    folder, earlier = tmp_path / "slice", tmp_path / "runs.tar"
    earlier.write_bytes(b"runs")
    pack.pack(folder, images=archive, data="x")
    (folder / "stale").write_text("")
    pack.pack(folder, images=archive, data="x", earlier=earlier)
    assert not (folder / "stale").exists()
    assert (folder / "earlier.tar").read_bytes() == b"runs"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"images": Path("nowhere.tar")},
            "--images: no such file; found 'nowhere.tar'; give an archive with train/<class>/* and test/<class>/*",
        ),
        ({"earlier": Path("nowhere.tar")}, "--earlier: no such file; found 'nowhere.tar'"),
        ({"folder": ROOT / "docs"}, f"{ROOT / 'docs'}: holds something that was not packed by this script; name another folder"),
    ],
)
def test_what_cannot_be_packed_is_one_line(
    index: list[list[str]], archive: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"folder": tmp_path / "slice", "images": archive, **options}
    with pytest.raises(SliceError) as caught:
        pack.pack(given.pop("folder"), data="x", **given)
    assert str(caught.value) == message
    assert not index


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["cifar10/train/cat", "cifar10/test/cat"], r"images\.tar has no test/<class>/<image> and no train/<class>/<image>"),
        (["train/cat"], r"images\.tar has no test/<class>/<image>"),
        ([], r"images\.tar has no test/<class>/<image> and no train"),
    ],
)
def test_an_archive_of_something_else_is_refused(folders: list[str], message: str, index: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as file:
        for name in folders:
            file.addfile(tarfile.TarInfo(f"{name}/1.jpg"))
    with pytest.raises(SliceError, match=message):
        pack.pack(tmp_path / "slice", images=path, data="x")
    path.write_bytes(b"no archive")
    with pytest.raises(SliceError, match=r"--images: .*images\.tar cannot be read \(.*\)"):
        pack.pack(tmp_path / "slice", images=path, data="x")
    assert not index


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("commit", ["", "0123456789ab-dirty"])
def test_results_must_be_traceable_to_a_commit(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    monkeypatch.setattr(pack, "checkout_commit", lambda: commit)
    with pytest.raises(SliceError, match=r"results need the commit that made them; found .*; commit first, or try with --dirty"):
        pack.pack(tmp_path / "slice", images=archive, data="x")
    assert pack.pack(tmp_path / "slice", images=archive, data="x", dirty=True).endswith("; what it measures cannot be merged")


@pytest.mark.usefixtures("index")
def test_a_folder_that_is_too_large_is_refused_with_what_makes_it_so(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "MAX_PACKED", 10_000)
    with pytest.raises(SliceError, match=r"slice: is too large; found \d+\.\d MiB; allowed 0; the largest files: "):
        pack.pack(tmp_path / "slice", images=archive, data="x")


# --------------------------------------------------------------------------------------------------------------------- running


@pytest.fixture
def folder(request: pytest.FixtureRequest, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packed, and on a machine that has everything already."""
    request.getfixturevalue("index")
    pack.pack(tmp_path / "slice", images=archive, data="ten colours")
    monkeypatch.setattr(run, "install", lambda _wheels, site: site.mkdir() or ["sslkit 0.1"])
    facts = {"gpu": None, "versions": {"torch": "2", "sslkit": "0.1"}, "commit": "0123456789ab", "date": "2026-01-02"}
    monkeypatch.setattr(run, "_facts", lambda *_arguments: facts)
    return tmp_path / "slice"


def state_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "slice.json").read_text())


def small(folder: Path, out: Path, **options: Any) -> int:
    defaults: dict[str, Any] = {"minutes": 1.0, "parts": ["smoke", "speed", "fidelity"], "device": "cpu", "rehearse": True}
    return run.run(folder, out, **{**defaults, **options})


def test_each_part_has_a_budget_and_what_one_loses_the_others_keep(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first part writes and hangs, with a child that hangs too; the second fails; the third ends."""
    hang = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print('child', p.pid, flush=True); time.sleep(600)"
    scripts = {"smoke": hang, "speed": "print('no such luck'); raise SystemExit(3)", "fidelity": "print('well')"}
    monkeypatch.setattr(run, "_command", lambda part, *_arguments: ["-c", scripts[part]])
    monkeypatch.setattr(run, "BUDGETS", {"smoke": 1.0, "speed": 10.0})
    assert small(folder, tmp_path / "out") == 1
    parts = state_of(tmp_path / "out")["parts"]
    assert [parts[part]["status"] for part in ("smoke", "speed", "fidelity")] == ["cut off", "failed, exit code 3", "done"]
    assert parts["speed"]["output"] == "no such luck\n"
    child = int(parts["smoke"]["output"].split()[1])
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
    assert "speed: failed, exit code 3" in capsys.readouterr().out


@pytest.mark.slow
def test_parts_for_which_no_time_is_left_are_not_begun(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_command", lambda *_arguments: ["-c", "import time; time.sleep(60)"])
    assert small(folder, tmp_path / "out", minutes=0.2) == 0
    parts = state_of(tmp_path / "out")["parts"]
    assert parts["smoke"]["status"] == "cut off"
    assert parts["fidelity"] == {"status": "no time left"}


@pytest.mark.slow
def test_parts_die_with_whoever_kills_the_slice(folder: Path, tmp_path: Path) -> None:
    out, note = tmp_path / "out", tmp_path / "note"
    program = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from pathlib import Path
from slicing import run
run.install = lambda wheels, site: site.mkdir() or []
run._facts = lambda *arguments: {{"gpu": None}}
run._command = lambda *arguments: ["-c", "import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"]
run.run(Path({str(folder)!r}), Path({str(out)!r}), minutes=5, parts=["smoke"], device="cpu", rehearse=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    _wait(lambda: note.exists() and note.read_text() != "")
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait(lambda: not Path(f"/proc/{note.read_text()}").exists())
    assert state_of(out)["parts"]["smoke"]["status"] == "running"
    assert {path.name for path in out.iterdir()} <= set(RESULTS)


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_results_of_two_slices_do_not_mix(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_command", lambda *_arguments: ["-c", ""])
    small(folder, tmp_path / "out")
    with pytest.raises(SliceError, match="out: holds the results of another slice; name another folder"):
        small(folder, tmp_path / "out")


def test_a_slice_that_could_not_begin_leaves_its_folder_free(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise SliceError("torch sees no CUDA device here")

    monkeypatch.setattr(run, "_command", lambda *_arguments: ["-c", ""])
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(run, "_facts", fail)
        with pytest.raises(SliceError, match="no CUDA device"):
            small(folder, tmp_path / "out")
    assert small(folder, tmp_path / "out") == 0


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SliceError, match=r"manifest\.json: no such file"):
        small(tmp_path, tmp_path / "out")
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(SliceError, match="is not whole; pack it again"):
        small(tmp_path, tmp_path / "out")


def test_damaged_images_are_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "images" / "images.tar.xz").write_bytes(b"no archive")
    monkeypatch.setattr(run, "_command", lambda *_arguments: ["-c", ""])
    with pytest.raises(SliceError, match=r"the packed images cannot be unpacked .*; pack them again"):
        small(folder, tmp_path / "out", parts=["fidelity"])


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [
        ({"eager": 200.0, "compiled": 150.0, "CUDA graphs": 100.0}, ["compile=true"]),  # graphs are no default
        ({"eager": 120.0, "compiled": 150.0}, ["compile=false"]),
        ({"eager": 120.0, "compiled": None}, ["compile=false"]),
        ({"eager": None, "compiled": None}, []),
    ],
)
def test_metrics_are_measured_with_the_faster_default(variants: dict[str, float | None], chosen: list[str], tmp_path: Path) -> None:
    jobs = {"pretrain": {name: {} if seconds is None else {"s_per_100_epochs": seconds} for name, seconds in variants.items()}}
    (tmp_path / "speed.json").write_text(json.dumps({"jobs": jobs}))
    assert fastest(tmp_path / "speed.json") == chosen
    (tmp_path / "damaged.json").write_text("{")
    assert fastest(tmp_path / "damaged.json") == fastest(tmp_path / "nowhere.json") == []


def test_a_rehearsed_recipe_keeps_its_stages_and_is_small(tmp_path: Path) -> None:
    few = read_table(rehearsal.write_small(ROOT / "recipes" / "rotnet_few_labels.toml", tmp_path))
    assert few["backbone"] == {"name": "nin", "num_blocks": 4, "width": 0.1}
    evaluator = few["stages"]["rotnet_few_labels"]["evaluator"]
    assert (evaluator["labels_per_class"], evaluator["num_subsets"], evaluator["epochs"]) == ([1, 10], [2, 1], 1)
    schedules = read_table(rehearsal.write_small(ROOT / "recipes" / "rotnet_schedules.toml", tmp_path))
    assert schedules["sweep"]["fifth_twice_as_long"]["stages.pretrain.epochs"] == 1
    trajectory = read_table(rehearsal.write_small(ROOT / "recipes" / "rotnet_trajectory.toml", tmp_path))
    assert trajectory["stages"]["pretrain"]["snapshot_epochs"] == [0, 1]


# --------------------------------------------------------------------------------------------------------------------- merging

GPU = "NVIDIA H200"
ENVIRONMENT = {
    "gpu": GPU,
    "device": GPU,
    "flags": [],
    "versions": {"torch": "2.11.0+cu130", "sslkit": "0.1.0"},
    "python": "3.12.3",
    "commit": "0123456789ab",
    "date": "2026-01-02T03:04:05+00:00",
}


def variant(seconds: float, **options: Any) -> dict[str, Any]:
    spread = {"median": 0.98, "min": 0.97, "max": 0.99}
    return {"s_per_100_epochs": seconds, "over_limit": spread, "images_per_s": spread, "peak_gpu_mib": 900, **options}


LIMIT = [50_000.0, 60_000.0, 55_000.0]


SPEED = {
    "jobs": {
        "pretrain": {
            "eager": variant(180.0, images_per_s_by_round=[10_000.0] * 3),
            "compiled": variant(140.0, images_per_s_by_round=[0.98 * rate for rate in LIMIT]),
            "limit": {"images_per_s_by_round": [rate / 2 for rate in LIMIT]},  # not the limit that counts: another one is better
            "limit, CUDA graphs": {"images_per_s_by_round": LIMIT},
            "common": {"problem": "failed: no such luck"},
        }
    },
    "compiling_pays_from_steps": {"pretrain": 12345},
    "batch_size": 128,
    "gpu": GPU,
    "peak_flop_per_s": 989e12,
    "syncs_per_step": 0.0,
    "views_percent": {"32 px, ResNet-18": 0.4, "224 px, ResNet-50": 1.5},
    "environment": ENVIRONMENT,
}
SMOKE = {
    "environment": ENVIRONMENT,
    "resumed": {"problems": [], "kills": 1},
    "collected": 4,
    "tests": [{"name": "a", "outcome": "passed"}, {"name": "b", "outcome": "failed", "reason": "no"}, {"name": "c", "outcome": "passed"}],
}


def one_record(metric: str = "conv_probe.conv2.top1", value: float = 91.0, **options: Any) -> dict[str, Any]:
    facts = {"seed": 0, "data": "CIFAR-10 (JPEG)", "hardware": GPU, "versions": ENVIRONMENT["versions"], "commit": "0123456789ab"}
    facts |= {"date": "2026-01-02", "command": "sslkit run recipes/rotnet_cifar10.toml", "seconds": 37.5, "spread": None}
    return {"recipe": "rotnet_cifar10", "metric": metric, "value": value, **facts, **options}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of a slice in which every part did its work, but for the network."""
    folder = tmp_path / "results"
    folder.mkdir()
    state = {"id": "a1", "started": "2026-01-02T03:00:00+00:00", "minutes": 8, "rehearsal": False, "commit": "0123456789ab"}
    state |= {"environment": ENVIRONMENT, "parts": {"smoke": {"status": "done", "seconds": 31.2}, "fidelity": {"status": "running"}}}
    contents = {"slice": state, "smoke": SMOKE, "speed": SPEED, "records": {"records": [one_record()]}}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "runs.tar").write_bytes(b"runs")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a merge may change, in which nothing of a GPU was merged yet."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "docs", folder / "docs")
    for path in [*(folder / "docs" / "performance").glob("gpu*.json"), folder / "docs" / "slices.json"]:
        path.unlink(missing_ok=True)
    for path in (folder / "docs" / "results").glob("*.json"):
        if not path.stem.endswith("_cpu"):
            path.unlink()
    (folder / "benchmarks").mkdir()
    return folder


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(results: Path, checkout: Path, message: str) -> None:
    """The merge fails, and changes nothing."""
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    with pytest.raises(SliceError, match=message):
        merging.merge(results, checkout=checkout)
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


def test_results_become_records_reports_and_both_documents(results: Path, checkout: Path) -> None:
    lines = merging.merge(results, checkout=checkout)
    assert "docs/results/rotnet_cifar10.json: conv_probe.conv2.top1 91.0" in lines
    docs = checkout / "docs"
    assert json.loads((docs / "performance" / "gpu.json").read_text()) == SPEED
    assert json.loads((docs / "performance" / "gpu_smoke.json").read_text()) == SMOKE
    assert "| RotNet + conv | 91.00 (91.16) |" in (docs / "results.md").read_text()
    assert (
        "- CIFAR-10 (JPEG); NVIDIA H200; torch 2.11.0+cu130; 2026-01-02, commit 0123456789ab; seed 0" in (docs / "results.md").read_text()
    )
    text = (docs / "performance.md").read_text()
    assert "| RotNet's 100 epochs in at most 150 s, aiming for 100; compiling counted in | yes | 140 s, projected |" in text
    assert "| the conv probe's 100 epochs in at most 40 s | yes | 38 s |" in text
    assert "| at least 0.97 of the resident limit | yes | 0.980 |" in text
    assert "| no host sync in a step | yes | 0 a step |" in text
    assert "| the paper's comparison within 0.5 points | yes so far | RotNet + conv -0.16; CIFAR-10 (JPEG) |" in text
    assert "pretrain: compiling pays from 12,345 optimizer steps on." in text
    assert "of 4 tests marked `gpu` 1 failed, 2 passed, the others not reached; a run with" in text
    assert "ended with the same bits" in text
    assert "failed: no such luck" in text
    assert (checkout / "benchmarks" / "earlier.tar").read_bytes() == b"runs"
    ledger = json.loads((docs / "slices.json").read_text())["slices"]
    assert [(entry["id"], entry["gpu"], entry["parts"]["fidelity"]["status"]) for entry in ledger] == [("a1", GPU, "running")]


def test_nothing_is_merged_twice(results: Path, checkout: Path) -> None:
    merging.merge(results, checkout=checkout)
    assert_refused(results, checkout, r"results: was merged before; docs/slices\.json has it")


def test_a_second_slice_adds_to_the_first(results: Path, checkout: Path) -> None:
    merging.merge(results, checkout=checkout)
    change(results / "slice.json", id="a2")
    (results / "smoke.json").unlink()
    (results / "records.json").write_text(json.dumps({"records": [one_record("mlp_probe.conv2.top1", 80.0)]}))
    merging.merge(results, checkout=checkout)
    text = (checkout / "docs" / "performance.md").read_text()
    assert "| **no** so far | RotNet + non-linear -9.06, RotNet + conv -0.16; CIFAR-10 (JPEG) |" in text
    assert "of 4 tests marked `gpu` 1 failed, 2 passed" in text  # of the first slice
    assert text.count(merging.BEGIN) == text.count(merging.END) == 1
    assert len(json.loads((checkout / "docs" / "slices.json").read_text())["slices"]) == 2


@pytest.mark.parametrize("lost", [["smoke"], ["speed"], ["records"], ["smoke", "speed", "records"]])
def test_what_a_slice_lost_is_not_there_and_the_rest_is(lost: list[str], results: Path, checkout: Path) -> None:
    for name in lost:
        (results / f"{name}.json").unlink()
    (results / "runs.tar").unlink()
    (results / ".partial").write_text("{")  # of the write in which it was killed
    assert ".partial: not taken over, no slice writes it" in merging.merge(results, checkout=checkout)
    found = {path.name for path in (checkout / "docs").rglob("*.json")}
    for name, path in {"smoke": "gpu_smoke.json", "speed": "gpu.json", "records": "rotnet_cifar10.json"}.items():
        assert (path in found) == (name not in lost)
    assert not (checkout / "benchmarks" / "earlier.tar").exists()
    assert ("not measured" in (checkout / "docs" / "performance.md").read_text().partition(merging.BEGIN)[2]) == (lost != ["smoke"])


UNTRACED = {
    "the GPU's name": {"gpu": None},
    "torch's version": {"versions": {"sslkit": "0.1.0"}},
    "sslkit's version": {"versions": {"torch": "2.11", "sslkit": "not installed"}},
    "the commit of a clean checkout": {"commit": "0123456789ab-dirty"},
    "the date": {"date": ""},
}


@pytest.mark.parametrize("name", ["slice", "smoke", "speed"])
@pytest.mark.parametrize("lack", UNTRACED)
def test_what_cannot_be_traced_is_refused(name: str, lack: str, results: Path, checkout: Path) -> None:
    change(results / f"{name}.json", environment={**ENVIRONMENT, **UNTRACED[lack]})
    assert_refused(results, checkout, rf"{name}\.json: lacks {lack}: it cannot be merged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": ""}, r"records\.json: lacks the commit of a clean checkout"),
        ({"hardware": ""}, r"records\.json: lacks the GPU's name"),
        ({"versions": {}}, r"records\.json: lacks torch's version, sslkit's version"),
        ({"hardware": "a CPU, 2 threads"}, r"records\.json: lacks the GPU's name"),
        ({"surprise": 1}, r"records\.json: damaged \(.*surprise.*\); copy the results again"),
    ],
)
def test_a_record_that_cannot_be_traced_is_refused(changes: dict[str, Any], message: str, results: Path, checkout: Path) -> None:
    (results / "records.json").write_text(json.dumps({"records": [one_record(), one_record("mlp_probe.conv2.top1", **changes)]}))
    assert_refused(results, checkout, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("slice.json", b"{", r"slice\.json: damaged \(.*\); copy the results again"),
        ("speed.json", b"[]", r"speed\.json: damaged \(not an object\); copy the results again"),
        ("weights.tar", b"no archive", r"weights\.tar: damaged \(.*\); copy the results again"),
    ],
)
def test_damaged_results_are_refused_whole(name: str, content: bytes, message: str, results: Path, checkout: Path) -> None:
    (results / name).write_bytes(content)
    assert_refused(results, checkout, message)


def test_a_document_without_a_place_for_results_is_found_before_anything_is_written(results: Path, checkout: Path) -> None:
    path = checkout / "docs" / "performance.md"
    path.write_text(path.read_text().replace(merging.END, ""))
    assert_refused(results, checkout, r"performance\.md: lacks the lines between which this is written")


def test_a_rehearsal_is_not_taken_for_a_result(results: Path, checkout: Path) -> None:
    change(results / "slice.json", rehearsal=True)
    with pytest.raises(SliceError, match="results: is a rehearsal; add --rehearsal --into COPY"):
        merging.merge(results, checkout=checkout)
    with pytest.raises(SliceError, match="what was rehearsed must not be taken for a result; give a copy of the checkout with --into"):
        merging.merge(results, rehearsal=True)
    merging.merge(results, checkout=checkout, rehearsal=True)
    change(results / "slice.json", rehearsal=False, id="a2")
    with pytest.raises(SliceError, match="results: is no rehearsal; leave out --rehearsal"):
        merging.merge(results, checkout=checkout, rehearsal=True)


@pytest.mark.docs
def test_the_committed_section_is_that_of_the_committed_reports() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.partition(merging.BEGIN + "\n")[2].partition(merging.END)[0] == merging.gpu_section(ROOT / "docs")


# --------------------------------------------------------------------------------------------------------------- the whole of it


@pytest.fixture(scope="module")
def rehearsed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is carried to the other machine, with ten classes of colours."""
    folder = tmp_path_factory.mktemp("rehearsal")
    command = [sys.executable, str(BENCHMARKS / "slice.py"), "pack", str(folder / "packed"), "--images", str(archive), "--dirty"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([*command, "--python", python, "--data", "ten colours"], check=True, capture_output=True, cwd=folder)
    return folder


def start(rehearsed: Path, out: Path, *options: str) -> subprocess.Popen:
    """What is started there: the folder's own script, in another folder, with no index to ask."""
    command = [sys.executable, str(rehearsed / "packed" / "slice.py"), "run", "--from", str(rehearsed / "packed"), "--out", str(out)]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PYTHONPATH": ""}
    return subprocess.Popen([*command, "--device", "cpu", "--rehearse", *options], cwd=rehearsed, env=environment)


def merge_rehearsal(out: Path, checkout: Path) -> list[str]:
    return merging.merge(out, checkout=checkout, rehearsal=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_rehearsal_fills_what_is_missing_and_the_next_slice_resumes_it(rehearsed: Path, checkout: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    code = start(rehearsed, first, "--minutes", "20", "--parts", "smoke", "speed", "fidelity").wait()
    assert code in (0, 1)  # a slow machine drops variants
    state = state_of(first)
    assert state["installed"][0].startswith("sslkit ")
    assert state["parts"]["fidelity"]["status"] == "done"
    assert state["parts"]["smoke"]["status"] in ("done", "cut off")  # a minute is little on two cores
    resumed = json.loads((first / "smoke.json").read_text())["resumed"]
    assert resumed is None or resumed["problems"] == []
    eager = json.loads((first / "speed.json").read_text())["jobs"]["pretrain"]["eager"]
    assert eager["images_per_s"] or "was not ready" in eager["problem"]
    records = json.loads((first / "records.json").read_text())["records"]
    assert {record["recipe"] for record in records} == set(reproduce.load_recipes("", []))
    assert {record["commit"] for record in records} == {state["commit"]}
    assert sorted(path.name for path in first.iterdir()) == sorted(RESULTS)
    assert all(path.stat().st_size <= MAX_FILE for path in first.iterdir())
    merge_rehearsal(first, checkout)
    assert "ten colours" in (checkout / "docs" / "results.md").read_text()
    assert (checkout / "recipes" / "weights" / "rotnet_cifar10.safetensors").stat().st_size <= MAX_WEIGHTS

    # Carried along, nothing of it is trained again.
    shutil.copyfile(checkout / "benchmarks" / "earlier.tar", rehearsed / "packed" / "earlier.tar")
    second = tmp_path / "second"
    assert start(rehearsed, second, "--minutes", "10", "--parts", "fidelity").wait() == 0
    (rehearsed / "packed" / "earlier.tar").unlink()
    assert "\npretrain: " in (first / "log.txt").read_text()
    assert "\npretrain: " not in (second / "log.txt").read_text()
    again = json.loads((second / "records.json").read_text())["records"]
    assert {(r["recipe"], r["metric"]): r["value"] for r in again} == {(r["recipe"], r["metric"]): r["value"] for r in records}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", ["smoke", "speed", "fidelity"])
def test_killed_in_a_part_what_was_written_is_merged_and_nothing_else(part: str, rehearsed: Path, checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(rehearsed, out, "--minutes", "20", "--parts", part)
    first_result = {"smoke": "environment", "speed": "jobs", "fidelity": "recipe"}[part]  # in fidelity, a record
    path = out / {"smoke": "smoke.json", "speed": "speed.json", "fidelity": "records.json"}[part]
    _wait(lambda: path.exists() and f'"{first_result}"' in path.read_text(), seconds=600)
    process.kill()
    process.wait()
    assert state_of(out)["parts"][part]["status"] == "running"
    merge_rehearsal(out, checkout)
    written = {path.name for path in (checkout / "docs").rglob("*.json")} | {path.name for path in (checkout / "recipes").rglob("*.md")}
    expected = {"smoke": {"gpu_smoke.json"}, "speed": {"gpu.json"}, "fidelity": {"rotnet_cifar10.json", "rotnet_cifar10.md"}}
    for name, files in expected.items():
        assert (files <= written) == (name == part)
        assert not files & written or name == part


# ------------------------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["pack", "x", "--images", "nowhere"],
            "error: --images: no such file; found 'nowhere'; give an archive with train/<class>/* and test/<class>/*",
        ),
        (["run", "--from", "nowhere", "--minutes", "1", "--out", "x"], f"error: {Path('nowhere', 'manifest.json')}: no such file"),
        (["merge", "nowhere"], f"error: {Path('nowhere', 'slice.json')}: no such file"),
        (["pack", "x"], "error: --images: is missing; give an archive, or set SSLKIT_CIFAR10_JPEG"),
        (["run", "--from", "x", "--minutes", "-1", "--out", "x"], "error: argument --minutes: must be positive; found -1"),
        (["pack", "x", "--python", "3"], "error: argument --python: is no version; found 3; allowed 3.11, 3.12 ..."),
        (["merge"], "error: the following arguments are required: DIR"),
    ],
)
def test_a_users_mistake_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSLKIT_CIFAR10_JPEG", raising=False)
    try:
        code = script.main(options)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert capsys.readouterr().err == f"{message}\n"


def test_running_needs_nothing_that_is_not_installed() -> None:
    """What `run` imports before it has installed anything is Python's own, and packaging, which pip brings along."""
    program = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
before = set(sys.modules)
import slice, slicing.run
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"slice", "slicing", "packaging"}
