import os
import platform
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import sslkit.contract.runtime as module
from sslkit import OptionError
from sslkit.contract.runtime import Runtime, has_bfloat16
from sslkit.training.device import configured, describe_device, keep_freed_memory

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest_device_there_is(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert Runtime().resolve_device() == torch.device(expected)
    assert Runtime(device="cpu").resolve_device() == CPU


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused(device: str):
    with pytest.raises(OptionError, match=rf"^device: is not usable on this machine; found '{device}'; allowed: auto, cpu"):
        Runtime(device=device).resolve_device()


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, False), ({"amx_bf16"}, True), ({"avx512_bf16", "avx2"}, True)])
def test_precision_follows_the_hardware(flags: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(flags))
    assert has_bfloat16(CPU) == expected
    assert Runtime().resolve_autocast(CPU) == (torch.bfloat16 if expected else None)
    assert Runtime(precision="bfloat16").resolve_autocast(CPU) is torch.bfloat16
    assert Runtime(precision="float32").resolve_autocast(CPU) is None
    assert Runtime(precision="tf32").resolve_autocast(CPU) is None


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_emulated_bfloat16_does_not_count(capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch):
    """Nor does what another GPU of the machine can do."""
    capabilities = {torch.device("cuda:1"): capability, CUDA: (9, 9)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_bfloat16(torch.device("cuda:1")) == expected
    assert not has_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(("choice", "cpu", "cuda"), [("auto", False, True), (True, True, True), (False, False, False)])
def test_compile_is_automatic_on_cuda_alone(choice: bool, cpu: bool, cuda: bool):
    runtime = Runtime(compile=choice)
    assert (runtime.resolve_compile(CPU), runtime.resolve_compile(CUDA)) == (cpu, cuda)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "^log_every: must be positive; found 0; allowed: 1 or more steps"),
        ({"checkpoint_minutes": -1.0}, r"^checkpoint_minutes: must not be negative; found -1.0; allowed: 0 \(every step\) or more"),
    ],
)
def test_numbers_are_checked(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        Runtime(**options)


class Settings(NamedTuple):
    """What torch holds as global state."""

    deterministic: bool
    warns_only: bool
    benchmark: bool
    matmul: str
    convolution: bool


def settings() -> Settings:
    return Settings(
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )


@pytest.fixture
def imagined_gpu(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A CUDA device as far as global settings go; the devices that were made the current one."""
    chosen: list[object] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(chosen.append(device)))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that what a stage sets is removed after the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    return chosen


@pytest.mark.parametrize("deterministic", [True, False])
def test_settings_hold_for_the_time_of_a_stage(deterministic: bool):
    before = settings()
    runtime = Runtime(deterministic=deterministic, keep_memory=False)
    with configured(runtime, CPU):
        assert settings() == Settings(deterministic, False, not deterministic, "highest", False)
    assert settings() == before
    with pytest.raises(RuntimeError, match="the stage failed"), configured(runtime, CPU):
        raise RuntimeError("the stage failed")
    assert settings() == before


@pytest.mark.parametrize("deterministic", [True, False])
def test_other_settings_than_the_default_are_put_back_too(deterministic: bool):
    before = settings()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    try:
        chosen = settings()
        with configured(Runtime(deterministic=deterministic), CPU):
            assert settings()[:3] == (deterministic, False, not deterministic)
        assert settings() == chosen
    finally:
        torch.use_deterministic_algorithms(before.deterministic, warn_only=before.warns_only)
        torch.backends.cudnn.benchmark = before.benchmark


@pytest.mark.usefixtures("imagined_gpu")
@pytest.mark.parametrize("precision", ["auto", "bfloat16", "tf32", "float32"])
def test_tf32_is_allowed_to_those_who_ask_for_it(precision: Any):
    before = settings()
    for device in (CUDA, CPU):
        allowed = precision == "tf32" and device == CUDA
        with configured(Runtime(precision=precision), device):
            assert settings()[3:] == ("high" if allowed else "highest", allowed)
    assert settings() == before


def test_the_gpu_of_a_stage_is_the_current_one(imagined_gpu: list[object]):
    with configured(Runtime(), torch.device("cuda:1")):
        assert imagined_gpu == [torch.device("cuda:1")]


@pytest.mark.usefixtures("imagined_gpu")
def test_a_later_stage_may_be_deterministic():
    """cuBLAS looks at the environment once, when it is first used."""
    for deterministic in (False, True):
        with configured(Runtime(deterministic=deterministic), CUDA):
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("imagined_gpu")
def test_an_environment_that_rules_determinism_out_is_refused(monkeypatch: pytest.MonkeyPatch):
    before = settings()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    message = r"^deterministic: needs another CUBLAS_WORKSPACE_CONFIG in the environment; found ':4096:2'; allowed: :4096:8, :16:8$"
    with pytest.raises(OptionError, match=message), configured(Runtime(deterministic=True), CUDA):
        pass
    assert settings() == before
    with configured(Runtime(), CUDA):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:2"


@pytest.mark.usefixtures("imagined_gpu")
def test_advice_to_use_tf32_is_not_passed_on():
    advice = "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled."
    with configured(Runtime(), CUDA):
        warnings.warn(advice, UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="TensorFloat32"), configured(Runtime(), CPU):
        warnings.warn(advice, UserWarning, stacklevel=1)


@pytest.mark.parametrize(("compiles", "calls"), [(True, 1), (False, 0)])
def test_what_a_stage_compiled_is_forgotten(compiles: bool, calls: int, monkeypatch: pytest.MonkeyPatch):
    called: list[bool] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    with configured(Runtime(compile=compiles), CPU):
        assert not called
    assert len(called) == calls


@pytest.mark.usefixtures("imagined_gpu")
@pytest.mark.parametrize(("keep", "device", "calls"), [(True, CPU, 1), (False, CPU, 0), (True, CUDA, 0)])
def test_the_allocator_is_set_on_a_cpu_alone(keep: bool, device: torch.device, calls: int, monkeypatch: pytest.MonkeyPatch):
    called: list[bool] = []
    monkeypatch.setattr("sslkit.training.device.keep_freed_memory", lambda: called.append(True))
    with configured(Runtime(keep_memory=keep), device):
        pass
    assert len(called) == calls


def test_only_glibc_has_the_allocator_setting(monkeypatch: pytest.MonkeyPatch):
    set_anew = keep_freed_memory.__wrapped__  # without its cache
    assert set_anew() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert set_anew() is False


def test_a_cpu_is_described_with_its_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sslkit.training.device.cpuinfo", lambda key: {"model name": "Fast CPU"}[key])
    monkeypatch.setattr(torch, "get_num_threads", iter([2, 1]).__next__)
    assert (describe_device(CPU), describe_device(CPU)) == ("Fast CPU, 2 threads", "Fast CPU, 1 thread")


def test_the_first_processor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: One : two\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nmodel name\t: Other\n")
    for path, found in ((info, ["One : two", "fpu avx512_bf16", ""]), (tmp_path / "missing", ["", "", ""])):
        monkeypatch.setattr(module, "Path", lambda _, path=path: path)
        module.cpuinfo.cache_clear()
        assert [module.cpuinfo(key) for key in ("model name", "flags", "missing")] == found
    monkeypatch.undo()
    module.cpuinfo.cache_clear()
