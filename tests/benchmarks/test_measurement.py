"""The benchmark harness: turns, ratios, failures in one line, no process left over, and the arithmetic of every report. No timings."""

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import gpu
import scaling
import startup
import throughput
from measurement.backward_split import BackwardSplit
from measurement.common import rotations, with_rotation_labels
from measurement.flops import flops_per_image, peak_of
from measurement.gate import Measured, Slice
from measurement.groups import BACKWARD, DATA, PYTHON, REST, group, seconds_by_group
from measurement.interleave import Plan, Record, interleave
from measurement.limit import build_objective
from measurement.overhead import Overhead
from measurement.plain import PlainNIN, classifier
from measurement.results import JobResult, Spread, ratios, table
from measurement.script import workload
from measurement.syncs import syncs_per_step
from measurement.worker import Variant
from measurement.workload import JobName, Workload
from sslkit import Batch, DataInfo, RunFailedError
from sslkit_rotnet import RotNet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

JOBS = """
import os
import time
from pathlib import Path


def write(log, text):
    with Path(log).open("a") as file:
        file.write(f"{text} {os.getpid()}\\n")


def steady(log, gate):
    while True:
        write(log, "steady")
        gate.step(3)


def quick(log, gate):
    while True:
        write(log, "quick")
        gate.step(5)


def raising(log, gate):
    gate.step(1)
    raise ValueError("no such\\nluck")


def dying(log, gate):
    gate.step(1)
    os._exit(7)


def ending(log, gate):
    pass


def late(log, gate):
    write(log, "late")
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def job_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get this process's path: a module in ``tmp_path`` can be an entry."""
    (tmp_path / "made_up_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def tiny() -> Iterator[Workload]:
    with workload(argparse.Namespace(images=8, batch_size=4, width=0.05)) as made:
        yield replace(made, device=torch.device("cpu"))


def variants(log: Path, *names: str) -> list[Variant]:
    return [Variant(name, f"made_up_jobs:{name}", str(log)) for name in names]


def record(*rates: float, problem: str = "") -> Record:
    return Record([Measured(int(10 * rate), 2, 10.0, 2**20, 0) for rate in rates], problem)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() if Path("/proc").exists() else not subprocess.call(["kill", "-0", str(pid)])


# ----------------------------------------------------------------------------------------------------------------- turns


def test_variants_take_turns_and_a_failing_one_does_not_stop_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = ("steady", "raising", "quick", "dying", "ending")
    records = interleave(variants(log, *names), Plan(2, Slice(2), warm_up=Slice(1), pause=0.0))
    lines = [line.split() for line in log.read_text().splitlines()]
    turns = ["steady", "quick"] + 2 * ["steady", "steady", "quick", "quick"]
    # Between the answer of a slice and the next question nothing is done: the gate is closed after the step, not before.
    assert [name for name, _ in lines] == turns
    assert [part.images for part in records["steady"].slices] == [6, 6]
    assert [part.steps for part in records["quick"].slices] == [2, 2]
    assert records["raising"].problem.startswith("failed: ValueError: no such luck (made_up_jobs.py:")
    assert records["dying"].problem == "failed: the process died, exit code 7"
    assert records["ending"].problem == "failed: ended although more was asked for"
    assert not any(is_alive(int(pid)) for _, pid in lines)


@pytest.mark.slow
def test_variants_warm_up_together_and_who_is_late_is_left_out_and_stopped(tmp_path: Path) -> None:
    """The one that never gets ready is the first that is waited for: the others must not pay for it."""
    log = tmp_path / "log"
    seen = []
    plan = Plan(1, Slice(2), warm_up=Slice(1), pause=0.0, ready_within=15.0)
    records = interleave(
        variants(log, "late", "raising", "quick"),
        plan,
        on_round=lambda found: seen.append({name: len(record.slices) for name, record in found.items()}),
    )
    assert records["late"].problem == "failed: was not ready within 15 seconds"
    assert records["raising"].problem.startswith("failed: ValueError")  # in the round, after a step of warm-up
    before = records["quick"].before_first
    assert before is not None
    assert 0 < before < 15
    assert records["late"].before_first is None
    assert seen == [{"late": 0, "raising": 0, "quick": 0}, {"late": 0, "raising": 0, "quick": 1}]
    assert not any(is_alive(int(line.split()[1])) for line in log.read_text().splitlines())


@pytest.mark.slow
def test_a_worker_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from measurement.gate import Slice
        from measurement.worker import Variant, Worker
        with Worker(Variant("steady", "made_up_jobs:steady", sys.argv[1])) as worker:
            worker.ask(Slice(10**9))
            worker.answer()
    """)
    log = tmp_path / "log"
    paths = os.pathsep.join([str(tmp_path), str(BENCHMARKS)])
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)], env={**os.environ, "PYTHONPATH": paths})
    try:
        _wait(lambda: log.exists() and log.read_text().count("\n") > 0)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pid = int(log.read_text().splitlines()[0].split()[1])
    _wait(lambda: not is_alive(pid))


def _wait(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------------------- reports


def test_ratios_are_taken_round_by_round() -> None:
    first, second = [2.0, 6.0, 5.0], [1.0, 2.0, 5.0]
    naive = sorted(a / b for a, b in zip(first, second, strict=True))
    assert ratios(first, second) == Spread(naive[1], naive[0], naive[2])
    assert ratios(first, []) is None


def test_a_variant_without_figures_keeps_its_row() -> None:
    result = JobResult("pretrain", {"limit": record(10, 20), "sslkit": record(5, 16), "lightly": record(problem="not installed")})
    assert result.ratio("sslkit", "limit") == Spread(0.65, 0.5, 0.8)
    described = result.as_json(["limit"])
    assert described["lightly"] == {"problem": "not installed", "over_limit": None, "images_per_s": None, "images_per_s_by_round": []}
    assert described["sslkit"]["images_per_s_by_round"] == [5, 16]
    assert described["sslkit"]["peak_rss_mib"] == 1
    assert result.rows(["limit"])[2] == ["pretrain", "lightly", "", "not installed", "", ""]


def test_a_table_leaves_empty_columns_out() -> None:
    assert table(["a", "b", "c"], [["1", "", "x"], ["22", "", ""]]).splitlines() == ["| a  | c |", "| ---|-- |", "| 1  | x |", "| 22 |   |"]


def test_overhead_is_set_against_a_step_and_the_interval() -> None:
    overhead = Overhead(Spread(0.001, 0, 0.002), Spread(0.6, 0.5, 0.7)).as_json([2.0])
    assert overhead["events_percent_of_step"] == pytest.approx(0.05)
    assert overhead["checkpoint_percent_of_step"] == pytest.approx(100 * 0.6 / overhead["checkpoint_interval_s"])
    assert Overhead(None, None, "failed").as_json([])["problem"] == "failed"


@pytest.mark.slow
def test_a_tiny_throughput_run_reports_every_key(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "speed.json"
    sizes = ["--width", "0.05", "--batch-size", "4", "--images", "8", "--rounds", "1", "--seconds", "0"]
    assert throughput.main(["--quick", "--only", "pretrain", "--json", str(path), *sizes]) == 0
    report = json.loads(path.read_text())
    for key in ("end_to_end_over_limit", "end_to_end_over_common"):
        assert set(report[key]) == {"median", "min", "max"}
    for key in ("data_path_images_per_s", "frozen_conv2_images_per_s", "overhead"):
        assert report[key] is None
    pretraining = report["jobs"]["pretrain"]
    assert list(pretraining) == ["limit", "sslkit", "common"]
    assert report["end_to_end_over_limit"]["median"] == pytest.approx(
        pretraining["sslkit"]["images_per_s"]["median"] / pretraining["limit"]["images_per_s"]["median"]
    )
    assert {"device", "flags", "threads", "gpu", "commit", "date", "c_compiler"} <= set(report["environment"])
    assert report["environment"]["versions"]["torch"] == torch.__version__
    assert report["settings"]["data"] == "random"
    assert "end to end over the limit" in capsys.readouterr().out


def test_figures_of_other_jobs_come_from_sslkit() -> None:
    results = {"data_path": JobResult("data_path", {"sslkit": record(7)}), "features": JobResult("features", {"sslkit": record(3)})}
    report = throughput.build_report(results, None, {})
    assert report["data_path_images_per_s"] == {"median": 7, "min": 7, "max": 7}
    assert report["frozen_conv2_images_per_s"] == {"median": 3, "min": 3, "max": 3}
    assert report["end_to_end_over_limit"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "8"], "error: --batch-size: is larger than the data; found 128; allowed: 1 to 8 images"),
        (["--data", "nowhere"], "error: nowhere: no such folder"),
        (["--width", "0"], "error: argument --width: must be positive; found 0"),
    ],
)
def test_a_users_mistake_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    try:
        code = throughput.main(options)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize("script", ["throughput", "scaling", "startup", "step_profile", "gpu"])
def test_help_shows_commands(script: str, capsys: pytest.CaptureFixture) -> None:
    module = __import__(script)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python benchmarks/{script}.py" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- variants


def test_the_plain_network_is_the_same_network(tiny: Workload) -> None:
    ours, plain = tiny.network(tiny.data().image()), PlainNIN(tiny.width)
    for source, target in zip(ours.parameters(), plain.parameters(), strict=True):
        target.data.copy_(source.data)
    images = tiny.batch()
    found = plain(ours.prepare(images), ["conv2", "conv4"])
    expected = ours(images, ["conv2", "conv4"])
    for layer in ("conv2", "conv4"):
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("job", ["pretrain", "linear_probe", "mlp_probe", "conv_probe", "finetune"])
def test_plain_classifiers_have_as_many_parameters(tiny: Workload, job: JobName) -> None:
    work = replace(tiny, job=job)
    plain = sorted(tuple(parameter.shape) for parameter in classifier(work, side=32).parameters() if parameter.requires_grad)
    ours = sorted(tuple(parameter.shape) for parameter in build_objective(work).parameters() if parameter.requires_grad)
    assert plain == ours or job == "finetune"  # sslkit's backbone keeps the layers that fine-tuning does not use
    assert all(shape in plain for shape in ours) or job == "finetune"


def test_the_common_rotations_are_rotnets(tiny: Workload) -> None:
    images = tiny.batch()
    objective = RotNet().build_objective(tiny.network(tiny.data().image()), DataInfo(tiny.data().image(), None))
    expected = objective.make_views(Batch(images, torch.arange(4)), torch.Generator(), train=True)
    found, labels = with_rotation_labels(rotations(images))
    order = torch.argsort(labels, stable=True)  # ours come class after class
    assert torch.equal(found[order], expected["images"])
    assert torch.equal(labels[order], expected["labels"])


def test_probes_get_more_layers_from_the_deepest_up(tiny: Workload) -> None:
    points = scaling.layers(replace(tiny, job="linear_probe"))
    assert [point.layers for point in points.values()] == [
        ("conv4",),
        ("conv3", "conv4"),
        ("conv2", "conv3", "conv4"),
        ("conv1", "conv2", "conv3", "conv4"),
    ]


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(RunFailedError, match=r"python -c raise SystemExit\('broken'\): broken"):
        startup.time_command("-c", "raise SystemExit('broken')")


# ------------------------------------------------------------------------------------------------------------------ GPUs


def test_flops_are_those_of_a_count_by_hand(tiny: Workload) -> None:
    chs, sides = [3, 10, 8, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10], [32] * 3 + [16] * 3 + [8] * 6
    kernels = [5, 1, 1, 5, 1, 1, 3, 1, 1, 3, 1, 1]
    forward = [2 * (k * s) ** 2 * a * b for k, s, a, b in zip(kernels, sides, chs[:-1], chs[1:], strict=True)]
    head = 2 * chs[-1] * 4
    assert flops_per_image(tiny) == 4 * (3 * sum(forward) - forward[0] + 3 * head)  # nobody needs the gradient of images


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
    ],
)
def test_only_peaks_that_are_known_are_used(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_utilisation_is_work_over_peak() -> None:
    results = {"pretrain": JobResult("pretrain", {"limit": record(100), "compiled": record(50), "common": record(problem="failed: x")})}
    report = gpu.build_report(results, {"pretrain": 9.89e12}, "NVIDIA H200", 128)
    described = report["jobs"]["pretrain"]
    assert described["compiled"]["mfu"]["median"] == pytest.approx(0.5)
    assert described["compiled"]["tflop_per_s"]["median"] == pytest.approx(494.5)
    assert described["compiled"]["s_per_epoch"] == 1000
    assert described["compiled"]["s_per_100_epochs"] == 100_000  # nobody measured what came before the first step
    assert described["common"]["problem"] == "failed: x"
    unknown = gpu.build_report(results, {"pretrain": 9.89e12}, "Abacus", 128)["jobs"]["pretrain"]["limit"]
    assert unknown["mfu"] is None
    assert unknown["tflop_per_s"]["median"] == pytest.approx(989)


def test_compiling_is_counted_and_pays_from_some_step_on() -> None:
    """128 images a step: 0.2 s eager, after 5 s; 0.1 s compiled, after 45 s. So 400 steps later both have done as many."""

    def ready(seconds_a_step: float, before: float) -> Record:
        steps = [Measured(images=1280, steps=10, seconds=10 * seconds_a_step, peak_rss=0, peak_gpu=0)] * 2
        return Record(steps, before_first=before)

    records = {"eager": ready(0.2, 5.0), "compiled": ready(0.1, 45.0)}
    report = gpu.build_report({"pretrain": JobResult("pretrain", records)}, {"pretrain": 1.0}, "", 128)
    assert report["compiling_pays_from_steps"] == {"pretrain": 400}
    found = report["jobs"]["pretrain"]["compiled"]
    assert found["s_to_first_step"] == pytest.approx(45)
    assert found["s_per_100_epochs"] == pytest.approx(45 + 100 * 50_000 / 1280)
    assert gpu.compiling_pays_from({"eager": ready(0.1, 5.0), "compiled": ready(0.2, 1.0)}, 128) is None
    unknown = {"eager": ready(0.1, 5.0), "compiled": Record(problem="failed: x")}
    assert gpu.build_report({"pretrain": JobResult("pretrain", unknown)}, {"pretrain": 1.0}, "", 128)["compiling_pays_from_steps"] == {}


@pytest.mark.parametrize("waits", [0, 3])
def test_syncs_are_counted_while_torch_is_asked_to_tell_of_them(waits: int, tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch as on a GPU: it warns that the mode is new, and then of each time that the host waits, here in the optimizer."""
    mode = "default"

    def set_mode(wanted: str) -> None:
        nonlocal mode
        mode = wanted
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations", stacklevel=1
        )

    def step(*_arguments: object) -> None:
        for _ in range(waits if mode == "warn" else 0):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    handle = register_optimizer_step_post_hook(step)
    try:
        assert syncs_per_step(tiny) == waits
    finally:
        handle.remove()
    assert mode == "default"


@pytest.mark.slow
def test_a_rehearsal_on_a_cpu_writes_what_it_has_after_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict] = []
    monkeypatch.setattr(gpu, "VARIANTS", ("eager", "limit"))
    monkeypatch.setattr(gpu, "write_json", lambda _path, report: written.append(json.loads(json.dumps(report))))
    sizes = ["--width", "0.05", "--batch-size", "4", "--images", "8", "--rounds", "2", "--seconds", "0"]
    assert gpu.main(["--device", "cpu", "--jobs", "pretrain", *sizes]) == 0
    rounds = [len(report["jobs"]["pretrain"]["eager"]["images_per_s_by_round"]) for report in written]
    assert rounds == [0, 1, 2, 2]
    assert "syncs_per_step" not in written[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_there_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: torch sees no CUDA device")


# --------------------------------------------------------------------------------------------------------------- profiles


@dataclass
class FakeEvent:
    name: str
    cpu_parent: "FakeEvent | None" = None
    self_cpu_time_total: float = 1.0
    self_device_time_total: float = 100.0


def nested(*names: str) -> FakeEvent:
    event = None
    for name in names:
        event = FakeEvent(name, event)
    assert event is not None
    return event


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["aten::conv2d", "aten::to", "aten::copy_"], "convolution, forward"),
        (["autograd::engine::evaluate_function: ConvolutionBackward0", "ConvolutionBackward0", "aten::convolution_backward"], BACKWARD),
        (["aten::batch_norm", "aten::native_batch_norm"], "BatchNorm"),
        (["autograd::engine::evaluate_function: NativeBatchNormBackward0"], "BatchNorm"),
        (["aten::relu_", "aten::clamp_min_"], "ReLU"),
        (["ReluBackward0", "aten::threshold_backward"], "ReLU"),
        (["aten::max_pool2d"], "pooling"),
        (["Optimizer.step#SGD.step", "aten::_fused_sgd_"], "optimizer"),
        ([DATA, "aten::rot90", "aten::copy_"], DATA),
        (["aten::cross_entropy_loss", "aten::log_softmax"], "head and loss"),
        (["aten::copy_"], REST),
    ],
)
def test_events_belong_to_the_work_around_them(names: list[str], expected: str) -> None:
    assert group(nested(*names)) == expected


def test_what_no_event_accounts_for_is_pythons() -> None:
    events = [nested("aten::conv2d"), nested("aten::conv2d", "aten::to"), nested("aten::mul")]
    sums = seconds_by_group(events, 1e-5, on_device=False)
    assert sums["convolution, forward"] == pytest.approx(2e-6)
    assert sums[REST] == pytest.approx(1e-6)
    assert sums[PYTHON] == pytest.approx(7e-6)
    assert sum(sums.values()) == pytest.approx(1e-5)
    assert seconds_by_group(events, 1e-3, on_device=True)[REST] == pytest.approx(1e-4)


def test_a_split_backward_pass_gives_the_same_gradients() -> None:
    conv = nn.Conv2d(3, 4, 3)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(F.relu(conv(x)).sum(), (x, conv.weight, conv.bias))

    plain = gradients()
    with BackwardSplit() as split:
        found = gradients()
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b)
    assert 0 < split.data_share < 1
