import platform
from pathlib import Path

import pytest
import torch

import sslkit.engine.device as module
from sslkit import OptionError
from sslkit.engine.device import Runtime, configured, describe_device, has_bfloat16, keep_freed_memory

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest_device_there_is(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert Runtime().resolve_device() == torch.device(expected)


def test_a_device_may_be_named():
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


def test_emulated_bfloat16_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert not has_bfloat16(CUDA)
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


def _global_settings() -> tuple[bool, str, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("deterministic", "inside"), [(True, (True, "highest", False)), (False, (False, "high", True))])
def test_settings_hold_for_the_time_of_a_stage(deterministic: bool, inside: tuple[bool, str, bool]):
    before = _global_settings()
    runtime = Runtime(deterministic=deterministic, keep_memory=False)
    with configured(runtime, CPU):
        assert _global_settings() == inside
    assert _global_settings() == before
    with pytest.raises(RuntimeError, match="the stage failed"), configured(runtime, CPU):
        raise RuntimeError("the stage failed")
    assert _global_settings() == before


@pytest.mark.parametrize(("keep", "device", "calls"), [(True, CPU, 1), (False, CPU, 0), (True, CUDA, 0)])
def test_the_allocator_is_set_on_a_cpu_alone(keep: bool, device: torch.device, calls: int, monkeypatch: pytest.MonkeyPatch):
    called: list[bool] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: called.append(True))
    with configured(Runtime(keep_memory=keep), device):
        pass
    assert len(called) == calls


def test_only_glibc_has_the_allocator_setting(monkeypatch: pytest.MonkeyPatch):
    keep_freed_memory.cache_clear()
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
    keep_freed_memory.cache_clear()


def test_a_cpu_is_described_with_its_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_cpuinfo", lambda key: {"model name": "Fast CPU"}[key])
    assert describe_device(CPU) == f"Fast CPU, {torch.get_num_threads()} threads"


def test_the_first_processor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: One : two\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nmodel name\t: Other\n")
    for path, found in ((info, ["One : two", "fpu avx512_bf16", ""]), (tmp_path / "missing", ["", "", ""])):
        monkeypatch.setattr(module, "Path", lambda _, path=path: path)
        module._cpuinfo.cache_clear()
        assert [module._cpuinfo(key) for key in ("model name", "flags", "missing")] == found
    monkeypatch.undo()
    module._cpuinfo.cache_clear()
