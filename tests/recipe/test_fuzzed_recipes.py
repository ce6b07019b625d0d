"""Whatever stands in a recipe, it is fine or it is refused in one line.

``pytest tests/recipe/test_fuzzed_recipes.py --hypothesis-profile=campaign`` searches for hours. What it finds goes to test_wrong_recipes.py.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import event, given, settings, strategies as st

from sslkit import SslkitError, load_catalog, load_recipe
from sslkit.cli import commands as cli
from sslkit.contract.errors import printable
from sslkit.run.preflight import check_recipe
from sslkit.storage.json_files import MAX_DEPTH
from tests.recipe.fuzzing import KEYS, RECIPES, TREES, VALUES, paths, spoilt_recipes
from tests.recipes import changed

CATALOG = load_catalog()
GOOD = changed("name=tiny")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty current folder, without data."""
    path, before = tmp_path_factory.mktemp("fuzzed"), Path.cwd()
    os.chdir(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLKIT_DATA", str(path / "data"))
        yield path
    os.chdir(before)


def refusal(content: bytes | str, overrides: Sequence[str] = ()) -> str:
    """The line that a recipe is refused with, checked for what every such line is; empty if it is fine."""
    path = Path("fuzzed.toml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        check_recipe(load_recipe(path, overrides, catalog=CATALOG))
    except SslkitError as error:
        refused = error
    else:
        return ""
    message = str(refused)
    assert refused.exit_code == 2, message
    assert message == printable(message)
    assert 0 < len(message) < 5000
    return message


def _swept(sweep: Any) -> Iterator[str]:
    """The paths that a sweep's keys make in its variants, where the recipe itself has none."""
    for key, value in sweep.items() if isinstance(sweep, dict) else ():
        for swept in (key, *(value if isinstance(value, dict) else ())):
            yield from (swept[:place] for place, letter in enumerate(f"{swept}.") if letter == ".")


def starts_at_a_key(message: str, table: dict[str, Any]) -> bool:
    """Whether a message begins with a path of the table, or with such a path and a key that is missing there or unknown."""
    known = {printable(path) for path in (*paths(table), *_swept(table.get("sweep")))}
    if any(message.startswith(f"{path}:") for path in known):
        return True
    absent = re.match(r"(?:(?P<above>.*)\.)?(\w+|\".*\"): (missing; required|unknown key|unknown option)", message)
    return absent is not None and (absent["above"] is None or absent["above"] in known)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused(content: bytes):
    assert refusal(content)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.integers(0, len(GOOD)), st.integers(0, 20), st.text(max_size=10))
def test_a_recipe_with_a_piece_of_text_in_place_of_another(start: int, length: int, text: str):
    event("fine" if not refusal((GOOD[:start] + text + GOOD[start + length :]).encode("utf-8", "surrogatepass")) else "refused")


@given(TREES)
def test_any_tree_is_refused(tree: dict[str, Any]):
    assert refusal(tomli_w.dumps(tree))


@pytest.mark.parametrize("depth", [MAX_DEPTH, 200, 1000, 5000, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ("{a=", "}")])
def test_values_nested_deeply(depth: int, opened: str, closed: str):
    for text in (opened * depth, f"{opened * depth}1{closed * depth}"):
        assert "is nested too deeply; allowed: 32 levels" in refusal(f"{GOOD}\nx = {text}") or text.endswith(("[", "="))
        assert refusal(GOOD, [f"x={text[:100_000]}"])


@pytest.mark.parametrize("depth", [MAX_DEPTH, 999, 1000, 1001, 300_000])
@pytest.mark.parametrize("key", ["a", '"a"', "'.'", "''", "a "])
def test_keys_nested_deeply(depth: int, key: str):
    dots = f"{key}." * depth
    for text in (f"{dots}a = 1", f"[{dots}a]", f"x = {{ {dots}a = 1 }}", f"[[{dots}a]]"):
        if len(text) < 2**20:
            assert "is nested too deeply; allowed: 32 levels" in refusal(f"{text}\n")
    assert refusal(GOOD, [f"{dots[:50_000]}a=1"])


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "0x8000000000000000", "9" * 4300, f"0x{'f' * 5000}"])
@pytest.mark.parametrize("key", ["seed", "log_every", "stages.pretrain.epochs", "paper.x", "nonsense"])
def test_integers_of_more_than_64_bits(number: str, key: str):
    assert refusal(GOOD, [f"{key}={number}"]) == f"{key}: is too large an integer; allowed: 64 bits"
    assert refusal(f"x = {number}\n{GOOD}") == "x: is too large an integer; allowed: 64 bits"


def test_integers_that_python_does_not_read():
    for content, overrides in ((f"x = {'9' * 4301}\n{GOOD}", []), (GOOD, [f"seed={'9' * 4301}"])):
        assert "holds a value that cannot be read (Exceeds the limit" in refusal(content, overrides)


def test_long_texts():
    long = "x" * 1_000_000
    for text in (f'{long} = "{long[:-600_000]}"', f"['{long}']", f'x = "{long}"', f'name = "{long}"', f"# {long}"):
        assert refusal(text)
    assert refusal(GOOD + "#" * 2**20) == "fuzzed.toml: is too large for a recipe; allowed: 1,048,576 bytes"


@settings(max_examples=settings.default.max_examples // 10)  # they load images, where most others are refused before
@given(RECIPES)
def test_the_good_recipes_are_good(table: dict[str, Any]):
    message = refusal(tomli_w.dumps(table))
    assert message == "" or message.startswith("data: ")


@given(spoilt_recipes())
def test_a_spoilt_recipe_is_refused_at_a_key_that_it_has(table: dict[str, Any]):
    message = refusal(tomli_w.dumps(table))
    event("refused" if message else "fine")
    assert message == "" or starts_at_a_key(message, table), message


@given(RECIPES, st.data())
def test_fuzzed_overrides(table: dict[str, Any], data: st.DataObject):
    known = st.sampled_from([path for path in paths(table) if "[" not in path])
    key, value = (
        data.draw(known | KEYS),
        data.draw(VALUES.map(lambda value: tomli_w.dumps({"x": value}).partition("=")[2]) | st.text(max_size=30)),
    )
    refusal(tomli_w.dumps(table), [f"{key}={value}"])


@given(st.lists(st.text(max_size=40), max_size=3))
def test_overrides_of_any_text(overrides: list[str]):
    refusal(GOOD, overrides)


@pytest.mark.slow
@given(table=spoilt_recipes())
def test_the_command_prints_that_one_line(table: dict[str, Any]):
    assert_one_line(*in_process(tomli_w.dumps(table)))


def in_process(content: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``sslkit check``."""
    Path("fuzzed.toml").write_text(content, encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["sslkit", "check", "fuzzed.toml"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0, out.getvalue(), err.getvalue()


def assert_one_line(code: int, out: str, err: str) -> None:
    if code == 0:
        assert out.startswith("fuzzed.toml: fine, ")
        assert err == ""
        return
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"x = " + b"[" * 100_000,
        b"x = " + b"9" * 5000,
        GOOD.replace("tiny", "\x85").encode(),
        f"{GOOD}\n[sweep]\nseed = {list(range(2000))}".encode(),
    ],
    ids=["bytes", "nested", "integer", "control", "sweep"],
)
def test_a_real_process_prints_that_one_line(content: bytes):
    Path("fuzzed.toml").write_bytes(content)
    done = subprocess.run([sys.executable, "-m", "sslkit", "check", "fuzzed.toml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.returncode, done.stdout, done.stderr)
