import ctypes
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


def test_it_can_be_switched_off(source: Path):
    with pytest.raises(NativeBuildError, match="SSLKIT_NATIVE_KERNELS=0"):
        build(source, {"SSLKIT_NATIVE_KERNELS": "0"})


def test_other_systems_do_without(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.sys, "platform", "win32")
    with pytest.raises(NativeBuildError, match="win32"):
        build(source, {})
