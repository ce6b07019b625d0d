"""What counts as the code behind a result: edit and rerun, for every role and every way to install."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torchvision
from torch import nn

from sslkit import SGD, Cosine, TrainingOptions
from sslkit.catalog.source_code import SourceCode
from sslkit_rotnet.task import RotNet

TASK = """
from dataclasses import dataclass
from sslkit_rotnet.task import RotNet
import my_views

@dataclass(frozen=True)
class Mine:
    strength: float = 1.0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported; none of them stays imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    importlib.invalidate_caches()


def code_of(*specs: str) -> dict[str, str]:
    classes = [getattr(importlib.import_module(module), name) for module, name in (spec.split(":") for spec in specs)]
    return SourceCode().of(*classes)


def test_a_module_that_stands_alone_is_its_file_and_those_beside_it_that_it_imports(project: Path):
    files = {
        "my_task.py": TASK,
        "my_views.py": "def views():\n    from my_parts import crops\n",
        "my_parts/__init__.py": "",
        "my_parts/crops.py": "SIZE = 3\n",
        "unrelated.py": "",
        "my_parts/deep/more.py": "",
    }
    write(project, files)
    first = code_of("my_task:Mine")
    assert list(first) == ["my_parts", "my_task.py", "my_views.py"]
    for name, edited in {"my_task.py": "my_task.py", "my_views.py": "my_views.py", "my_parts/deep/more.py": "my_parts"}.items():
        write(project, {name: f"{files[name]}\nX = 1\n"})
        now = code_of("my_task:Mine")
        assert {key for key in now if now[key] != first[key]} == {edited}
        write(project, {name: files[name]})
    write(project, {"unrelated.py": "X = 1\n"})
    assert code_of("my_task:Mine") == first


def test_a_package_is_all_its_python_files_and_nothing_else(project: Path):
    write(project, {"mine/__init__.py": "", "mine/nets/small.py": "class Net: ...\n", "mine/never_imported.py": "", "mine/data.json": "{}"})
    first = code_of("mine.nets.small:Net")
    assert list(first) == ["mine"]
    write(project, {"mine/data.json": "[]", "mine/notes.md": "x"})
    assert code_of("mine.nets.small:Net") == first
    write(project, {"mine/never_imported.py": "X = 1\n"})
    changed = code_of("mine.nets.small:Net")
    assert changed != first
    (project / "mine" / "never_imported.py").rename(project / "mine" / "renamed.py")
    assert code_of("mine.nets.small:Net") not in (first, changed)


def test_packages_that_share_a_namespace_know_nothing_of_each_other(project: Path):
    write(
        project,
        {"shared/one/__init__.py": "class A: ...\n", "shared/two/__init__.py": "class B: ...\n", "shared/alone.py": "class C: ...\n"},
    )
    assert list(code_of("shared.one:A", "shared.two:B", "shared.alone:C")) == ["shared.one", "shared.two", "shared/alone.py"]


@pytest.mark.parametrize(
    "same",
    [
        "class A:\n    x = 1\n    def f(self):\n        return '#'\n",
        '"""What it is."""\nclass A:\n    """Of A."""\n    x = 1  # one\n    """Of x,\n    too."""\n\n    def f(self):\n        # says\n        return \'#\'\n',
        "class A:\r\n    x = 1\r\n    def f(self):\r\n        return '#'\r\n",
        "class A:\n    x = 1   \n\n    def f(self):\n        return '#'",
        "class A:\n    'ä'; \n    x = 1\n    def f(self):\n        return '#'\n".replace("'ä'; \n", "'ä ü'\n"),
    ],
)
def test_comments_docstrings_and_blank_lines_do_not_count(same: str, project: Path):
    write(project, {"commented.py": "class A:\n    x = 1\n    def f(self):\n        return '#'\n"})
    first = code_of("commented:A")
    (project / "commented.py").write_bytes(same.encode())
    assert code_of("commented:A") == first


@pytest.mark.parametrize(
    "other",
    [
        "class A:\n    x = 2\n    def f(self):\n        return '#'\n",
        "class A:\n    x = 1\n    def f(self):\n        return '# '\n",
        "class A:\n    x = 1\ndef f(self):\n    return '#'\n",
        "class A:\n    x = '''1\n    # no comment'''\n    def f(self):\n        return '#'\n",
        "class A:\n    x = 1\n    def f(self):\n        return ('#'\n'a')\n",
    ],
)
def test_everything_else_does(other: str, project: Path):
    write(project, {"edited.py": "class A:\n    x = 1\n    def f(self):\n        return '#'\n"})
    first = code_of("edited:A")
    write(project, {"edited.py": other})
    assert code_of("edited:A") != first


def test_files_that_are_no_python_are_taken_as_they_are(project: Path):
    write(project, {"odd/__init__.py": "class A: ...\n", "odd/template.py": "{{ this }} 'is\n# none"})
    (project / "odd" / "bytes.py").write_bytes(b"\xff\xfe x = '")
    first = code_of("odd:A")
    write(project, {"odd/template.py": "{{ this }} 'is\n# one"})
    assert code_of("odd:A") != first


@dataclass(frozen=True)
class Options:
    parts: Any


def test_options_of_options_count_and_modules_of_networks_and_base_classes(project: Path):
    write(
        project,
        {
            "bases.py": "class Base: ...\n",
            "heirs.py": "import bases\nfrom torch import nn\nclass Heir(bases.Base): ...\nclass Block(nn.Module): ...\ndef view(): ...\n",
        },
    )
    heirs = importlib.import_module("heirs")
    expected = ["bases.py", "heirs.py"]
    here = "tests/catalog/test_source_code.py"
    for nested in (heirs.Heir(), [heirs.Heir()], {"a": (heirs.Heir,)}, heirs.view):
        assert set(SourceCode().of(Options(nested))) >= set(expected)
        assert here in SourceCode().of(Options(nested))
    assert list(SourceCode().of(nn.Sequential(nn.ReLU(), heirs.Block()))) == expected
    (project / "bases.py").write_text("class Base:\n    x = 1\n")
    assert SourceCode().of(heirs.Heir)["bases.py"] != ""


def test_what_is_known_by_a_version_or_by_nothing_is_left_out():
    assert SourceCode().of(TrainingOptions(optimizer=SGD(), schedule=Cosine()), nn.Linear(1, 1), 3, "x", None, Path()) == {}
    assert SourceCode().of(torchvision.models.mobilenet_v3_small()).keys() <= {"torchvision"}
    assert SourceCode().of(nn.Sequential(torchvision.models.mobilenet_v3_small())) == {}


def test_sslkits_own_plugins_are_tracked_like_any_other():
    assert list(SourceCode().of(RotNet())) == ["sslkit_rotnet"]


def test_code_is_read_once(project: Path):
    """What is edited during a run is not what runs."""
    write(project, {"read_once.py": "class A: ...\n"})
    module = importlib.import_module("read_once")
    sources = SourceCode()
    first = sources.of(module.A)
    write(project, {"read_once.py": "class A:\n    x = 1\n"})
    assert sources.of(module.A) == first
    assert SourceCode().of(module.A) != first


SCRIPT = """
from sslkit.catalog.source_code import SourceCode
import beside
FACTOR = {factor}
@staticmethod
def helper(): return {returned}
class Task:
    def views(self): return helper() * FACTOR
EPOCHS = int("{epochs}")
print(sorted(SourceCode().of(Task()).items()))
"""


def printed_by(project: Path, script: str) -> str:
    return subprocess.run([sys.executable, script], cwd=project, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_of_a_script_only_what_it_defines_counts(project: Path):
    def run(**changes: object) -> str:
        write(project, {"experiment.py": SCRIPT.format(**{"factor": 1, "returned": 1, "epochs": 1, **changes}), "beside.py": ""})
        return printed_by(project, "experiment.py")

    first = run()
    assert first.startswith("[('beside.py', ")
    assert "experiment.py" in first
    assert run(epochs=9) == first
    assert len({first, run(factor=2), run(returned=2)}) == 3


@pytest.mark.slow
def test_code_typed_into_an_interpreter_cannot_be_read():
    code = "from sslkit.catalog.source_code import SourceCode\nclass A: ...\nprint(SourceCode().of(A))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "{}\n"


@pytest.mark.slow
def test_an_annotated_constant_of_a_script_counts(project: Path):
    def run(factor: int) -> str:
        write(project, {"annotated.py": f"FACTOR: int = {factor}\n{SCRIPT.format(factor=1, returned=1, epochs=1)}", "beside.py": ""})
        return printed_by(project, "annotated.py")

    assert run(1) != run(2)


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n"])
def test_sources_in_other_encodings_are_read_as_python_reads_them(head: bytes, project: Path):
    write(project, {"beside.py": "X = 1\n"})
    (project / "encoded.py").write_bytes(head + b"import beside\nclass A: ...\n")
    assert list(code_of("encoded:A")) == ["beside.py", "encoded.py"]
    (project / "script.py").write_bytes(head + SCRIPT.format(factor=1, returned=1, epochs=1).encode())
    assert "script.py" in printed_by(project, "script.py")


def test_what_editors_hide_in_a_package_is_none_of_its_code(project: Path):
    write(project, {"edited/__init__.py": "class A: ...\n"})
    first = code_of("edited:A")
    write(project, {"edited/.ipynb_checkpoints/views-checkpoint.py": "X = 1\n"})
    (project / "edited" / ".#__init__.py").symlink_to("somebody@somewhere.123")  # the lock of an editor
    (project / "edited" / "gone.py").symlink_to("nowhere.py")
    assert code_of("edited:A") == first


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [b"class A:\n    def", b"x = '\xe9'\n", b"x = 1\0\n"])
def test_sources_that_python_would_not_read_any_more_are_taken_as_they_are(spoilt: bytes, project: Path):
    write(project, {"spoilt.py": "class A: ...\n"})
    first = code_of("spoilt:A")
    (project / "spoilt.py").write_bytes(spoilt)
    assert code_of("spoilt:A") != first
    write(
        project,
        {"beside.py": "", "running.py": f"open('running.py', 'wb').write({spoilt!r})\n{SCRIPT.format(factor=1, returned=1, epochs=1)}"},
    )
    assert "running.py" in printed_by(project, "running.py")


@pytest.mark.parametrize("editable", [True, False])
def test_only_an_installed_library_is_left_out_where_it_is_a_part(editable: bool, project: Path):
    """Of a network, a base class ...; what was chosen always counts, so that a release without other code costs nothing."""
    write(project, {"library/__init__.py": "from torch import nn\nclass Block(nn.Module): ...\nclass Task: ...\n"})
    if not editable:
        write(project, {"library-1.0.dist-info/METADATA": "Name: library\nVersion: 1.0\n"})
    library = importlib.import_module("library")
    assert list(SourceCode().of(nn.Sequential(library.Block()))) == (["library"] if editable else [])
    first = SourceCode().of(library.Task)
    assert list(first) == ["library"]
    write(project, {"library-2.0.dist-info/METADATA": "Name: library\nVersion: 2.0\n", "library/README.md": "New.\n"})
    assert SourceCode().of(library.Task) == first
