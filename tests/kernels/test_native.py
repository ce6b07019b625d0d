import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sslkit.kernels.native as module
from sslkit.kernels.native import NativeBuildError, build

SOURCE = '#include "answer.h"\nint answer(void) { return ANSWER; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A C file with a header beside it."""
    (tmp_path / "answer.c").write_text(SOURCE)
    (tmp_path / "answer.h").write_text("#define ANSWER 42\n")
    return tmp_path / "answer.c"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the compiler is asked to do, besides its version."""
    run, asked = module._run, []

    def listen(command: list[str]) -> bytes:
        if "--version" not in command:
            asked.append(command)
        return run(command)

    monkeypatch.setattr(module, "_run", listen)
    return asked


def environ_of(source: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(source.parent / "cache")}


def build_or_skip(source: Path) -> ctypes.CDLL:
    try:
        return build(source, environ_of(source))
    except NativeBuildError as error:
        if "no C compiler" in str(error) or "not supported" in str(error):
            pytest.skip(str(error))
        raise


def test_a_library_is_built_once_and_again_when_a_source_changes(source: Path, commands: list[list[str]]):
    assert build_or_skip(source).answer() == 42
    assert len(commands) == 2
    assert build(source, environ_of(source)).answer() == 42
    assert len(commands) == 2
    (source.parent / "answer.h").write_text("#define ANSWER 43\n")
    assert build(source, environ_of(source)).answer() == 43
    assert len(commands) == 4


def test_nothing_but_libraries_is_left_in_the_cache(source: Path):
    build_or_skip(source)
    folder = source.parent / "cache" / "sslkit" / "kernels"
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert folder.stat().st_mode & 0o077 == 0


def test_another_processor_gets_a_library_of_its_own(source: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    build_or_skip(source)
    monkeypatch.setattr(module, "_processor", lambda: b"another")
    build(source, environ_of(source))
    assert len(commands) == 4


def test_a_source_with_an_error_gives_one_line_and_leaves_nothing(source: Path):
    build_or_skip(source)
    (source.parent / "answer.h").write_text("#error no\n")
    with pytest.raises(NativeBuildError) as caught:
        build(source, environ_of(source))
    assert "\n" not in str(caught.value)
    assert len(list((source.parent / "cache" / "sslkit" / "kernels").iterdir())) == 1


def test_a_damaged_library_is_built_again(source: Path, monkeypatch: pytest.MonkeyPatch):
    build_or_skip(source)
    monkeypatch.setattr(module, "_mark", lambda _source, _compiler: "damaged")  # under its old name it is loaded already
    (source.parent / "cache" / "sslkit" / "kernels" / "answer-damaged.so").write_bytes(b"")
    assert build(source, environ_of(source)).answer() == 42


def the_library(source: Path) -> Path:
    (library,) = (source.parent / "cache" / "sslkit" / "kernels").glob("answer-*.so")
    return library


def planted(source: Path, library: Path) -> None:
    """Leave a working library with the wrong answer, as somebody else would."""
    wicked = source.parent / "wicked.c"
    wicked.write_text("int answer(void) { return 666; }\n")
    library.unlink(missing_ok=True)
    subprocess.run(["cc", "-shared", "-fPIC", str(wicked), "-o", str(library)], check=True)


def _open_to_others(library: Path) -> None:
    library.chmod(0o775)


def _a_link(library: Path) -> None:
    library.rename(library.with_suffix(".elsewhere"))
    library.symlink_to(library.with_suffix(".elsewhere"))


@pytest.mark.parametrize("leave", [_open_to_others, _a_link])
def test_a_library_that_others_may_have_written_is_built_again(
    source: Path, leave: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    build_or_skip(source)
    library = the_library(source)
    library.rename(library.with_name("answer-again.so"))  # under its old name it is loaded already
    monkeypatch.setattr(module, "_mark", lambda _source, _compiler: f"left-{leave.__name__}")
    library = library.with_name(f"answer-left-{leave.__name__}.so")
    planted(source, library)
    leave(library)
    assert build(source, environ_of(source)).answer() == 42
    assert not library.is_symlink()
    assert library.stat().st_mode & 0o077 == 0


def test_the_umask_opens_nothing_to_others(source: Path):
    before = os.umask(0)
    try:
        build_or_skip(source)
    finally:
        os.umask(before)
    assert the_library(source).stat().st_mode & 0o077 == 0
    assert the_library(source).parent.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_swapped_after_it_was_checked_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch):
    build_or_skip(source)
    library, check = the_library(source), module._check_own
    (source.parent / "answer.h").write_text("#define ANSWER 44\n")
    monkeypatch.setattr(module, "_mark", lambda _source, _compiler: "swapped")

    def swap_after_the_check(status: os.stat_result, path: Path) -> None:
        check(status, path)
        if library.parent == path:
            library.parent.rename(library.parent.with_name("away"))
            library.parent.mkdir(mode=0o700)
            planted(source, library.with_name("answer-swapped.so"))

    monkeypatch.setattr(module, "_check_own", swap_after_the_check)
    assert build(source, environ_of(source)).answer() == 44
    assert (library.parent.with_name("away") / "answer-swapped.so").exists()


def test_a_folder_of_somebody_else_is_not_trusted(source: Path, monkeypatch: pytest.MonkeyPatch):
    build_or_skip(source)
    me = os.getuid()
    monkeypatch.setattr(module.os, "getuid", lambda: me + 1)
    with pytest.raises(NativeBuildError, match="can be written by others"):
        build(source, environ_of(source))


def test_a_compiler_below_the_current_folder_is_not_run(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "gcc"
    compiler.write_text(f"#!/bin/sh\n: > {tmp_path / 'ran'}\n")
    compiler.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "bin")
    with pytest.raises(NativeBuildError, match="no C compiler"):
        build(source, environ_of(source))
    assert not (tmp_path / "ran").exists()


def test_several_processes_may_build_at_once(source: Path):
    build_or_skip(source)
    code = (
        "import sys; from pathlib import Path; from sslkit.kernels.native import build\n"
        "print(build(Path(sys.argv[1]), {'XDG_CACHE_HOME': sys.argv[2]}).answer())"
    )
    fresh = source.parent / "fresh"
    command = [sys.executable, "-c", code, str(source), str(fresh)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["42\n"] * 4
    assert [path.suffix for path in (fresh / "sslkit" / "kernels").iterdir()] == [".so"]


def test_a_folder_that_others_can_write_to_is_not_trusted(source: Path):
    build_or_skip(source)
    (source.parent / "cache" / "sslkit" / "kernels").chmod(0o777)
    with pytest.raises(NativeBuildError, match="can be written by others"):
        build(source, environ_of(source))


def test_without_a_home_there_is_no_library(source: Path, monkeypatch: pytest.MonkeyPatch):
    build_or_skip(source)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module.Path, "home", no_home)
    with pytest.raises(NativeBuildError, match="home"):
        build(source, {"XDG_CACHE_HOME": "relative"})


def test_without_a_compiler_there_is_no_library(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NativeBuildError, match="no C compiler"):
        build(source, environ_of(source))


def test_a_cache_that_cannot_be_written_is_no_crash(source: Path):
    (source.parent / "cache").write_text("a file in the way")
    with pytest.raises(NativeBuildError):
        build_or_skip(source)


@pytest.mark.parametrize("value", ["0", "false", "off", "no", "2"])
def test_it_can_be_switched_off(source: Path, value: str):
    with pytest.raises(NativeBuildError, match=f"^switched off by SSLKIT_NATIVE_KERNELS={value}$"):
        build(source, {"SSLKIT_NATIVE_KERNELS": value})


@pytest.mark.parametrize("value", ["", "1"])
def test_it_can_be_left_on(source: Path, value: str):
    build_or_skip(source)
    assert build(source, {**environ_of(source), "SSLKIT_NATIVE_KERNELS": value}).answer() == 42


def test_other_systems_do_without(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.sys, "platform", "win32")
    with pytest.raises(NativeBuildError, match="win32"):
        build(source, {})
