"""The promises of the architecture: who may import whom, and that no method is known outside its plugin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import (
    MAY_RUN_CODE,
    METHOD_BLIND,
    ONLY_IN,
    PLUGINS,
    ROOT,
    SOURCES,
    VAGUE,
    dotted,
    foreign_imports,
    imports,
    methods_named,
    own_imports,
    parse,
    questions_of_type,
    room_of,
    runs_code,
)

# ------------------------------------------------------------------------------------------------------------- the promises

every_source = pytest.mark.parametrize("name", SOURCES)
every_blind_source = pytest.mark.parametrize("name", [name for name in SOURCES if METHOD_BLIND.fullmatch(name)])


def test_imports_point_one_way() -> None:
    """Which way, and the exceptions, stand in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nobody_imports_builtin_or_the_public_api() -> None:
    """Within sslkit, ``import sslkit`` would be a cycle; the classes of ``builtin`` come from the catalog."""
    found = {name: [i.line for i in own_imports(parse(path)) if i.module in {"sslkit", "builtin"}] for name, path in SOURCES.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@every_source
def test_imports_of_our_own_modules_stand_at_the_top(name: str) -> None:
    if name != "sslkit/cli/commands.py":  # one import per command keeps `sslkit --help` light
        assert [i for i in own_imports(parse(SOURCES[name])) if i.in_function] == []


@every_source
def test_libraries_with_one_home_stay_there(name: str) -> None:
    used = {room_of(found.module) for found in imports(parse(SOURCES[name]))}
    assert {library for library, homes in ONLY_IN.items() if library in used and dotted(name) not in homes} == set()


@every_source
def test_imports_are_absolute(name: str) -> None:
    assert [found for found in imports(parse(SOURCES[name])) if found.module.startswith(".")] == []


@every_blind_source
def test_no_method_is_named_outside_its_plugin(name: str) -> None:
    assert methods_named(parse(SOURCES[name])) == []


@every_blind_source
def test_nobody_asks_what_an_object_is(name: str) -> None:
    assert questions_of_type(parse(SOURCES[name])) == []


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_import_the_public_api_alone(name: str) -> None:
    package = next((part for part in Path(name).parts if part.startswith("sslkit_")), "")
    assert foreign_imports(parse(PLUGINS[name]), package) == []


@pytest.mark.parametrize("name", [*SOURCES, *PLUGINS])
def test_code_comes_from_our_files_alone(name: str) -> None:
    """Nothing is unpickled or evaluated, no shell is started; libraries and programs only where it is said why."""
    assert runs_code(parse({**SOURCES, **PLUGINS}[name])) == MAY_RUN_CODE.get(name, set())


def test_every_exception_is_a_file() -> None:
    assert MAY_RUN_CODE.keys() <= SOURCES.keys()


def test_libraries_are_imported_by_constant_names() -> None:
    """A name out of a recipe reaches the import system in one place, behind the catalog's refusal."""
    for name, runs in MAY_RUN_CODE.items():
        calls = [node for node in ast.walk(parse(SOURCES[name])) if isinstance(node, ast.Call)]
        given = [node.args[0] for node in calls if ast.unparse(node.func) == "importlib.import_module"]
        if "importlib.import_module" in runs and name != "sslkit/catalog/catalog.py":
            assert given
            assert all(isinstance(argument, ast.Constant) for argument in given), name


def test_modules_are_nouns() -> None:
    everything = {**SOURCES, **PLUGINS, **{path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tests").rglob("*.py")}}
    assert [name for name in everything if VAGUE & set(Path(name).with_suffix("").parts)] == []


def test_there_is_something_to_read() -> None:
    blind = {name for name in SOURCES if METHOD_BLIND.fullmatch(name)}
    assert {"sslkit/training/fit.py", "sslkit/run/stages.py", "sslkit/run/runner.py", "sslkit/evaluators/classifier.py"} <= blind
    assert any(name.startswith("plugins/rotnet/") for name in PLUGINS)


def test_a_local_import_is_distinguished_from_one_at_the_top() -> None:
    tree = ast.parse(
        "from sslkit.contract.errors import A\ndef f():\n    from sslkit.contract.events import B\nclass C:\n    from sslkit.catalog.discovery import D"
    )
    assert [(found.module, found.in_function) for found in own_imports(tree)] == [
        ("contract.errors", False),
        ("contract.events", True),
        ("catalog.discovery", False),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "x = 'rotnet'",
        "class RotNetHead: ...",
        "f(use_simclr=1)",
        "from a import byol",
        "objective.is_dino",
        "def train_gan(): ...",
        "f'{x} mae'",
    ],
)
def test_a_method_is_found(source: str) -> None:
    assert methods_named(ast.parse(source))


@pytest.mark.parametrize("source", ["organ = 'domain'", "'''A GAN.'''", "def f():\n    '''RotNet.'''", "x = 1  # DINO"])
def test_words_that_only_contain_a_method_and_docstrings_pass(source: str) -> None:
    assert methods_named(ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(objective, Rotation)",
        "isinstance(x, Tensor | Backbone)",
        "isinstance(x, (Tensor, nn.Linear))",
        "hasattr(task, 'requires')",
        "getattr(backbone, 'head', None)",
        "issubclass(cls, Evaluator)",
    ],
)
def test_a_question_of_type_is_found(source: str) -> None:
    assert questions_of_type(ast.parse(source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "import yaml",
        "import joblib",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "torch.load(path, weights_only=True)",
        "torch.load(path)",
        "torch.save(x, path)",
        "torch.hub.load_state_dict_from_url(url)",
        "from torch import load",
        "from os import system",
        "np.load(path)",
        "read(path, allow_pickle=True)",
        "read(path, allow_pickle=flag)",
        "load_state_dict(path, weights_only=False)",
        "run(command, shell=True)",
        "os.system(command)",
        "os.execvp(file, args)",
        "os.posix_spawn(path, args, env)",
        "subprocess.Popen(command)",
        "from subprocess import run",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "ctypes.CDLL(path)",
    ],
)
def test_what_may_run_code_is_found(source: str) -> None:
    assert runs_code(ast.parse(source)) != set()


@pytest.mark.parametrize(
    "source", ["network.eval()", "re.compile(x)", "torch.compile(x)", "json.load(f)", "f(x, shell=False)", "entry.load()"]
)
def test_what_only_sounds_like_it_passes(source: str) -> None:
    assert runs_code(ast.parse(source)) == set()


@pytest.mark.parametrize("source", ["isinstance(x, Tensor)", "isinstance(x, Tensor | OptimizerFactory)", "getattr(self, option)", "len(x)"])
def test_plain_values_may_be_asked(source: str) -> None:
    assert questions_of_type(ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from sslkit.training.fit import fit",
        "import sslkit.contract.images",
        "from sslkit import training",
        "import sslkit_dino",
        "from . import task",
    ],
)
def test_a_plugin_that_reaches_inside_is_found(source: str) -> None:
    assert len(foreign_imports(ast.parse(source), "sslkit_rotnet")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from sslkit import Backbone",
        "import sslkit",
        "from sslkit.testing import check",
        "from sslkit.views import grayscale",
        "from sslkit_rotnet.task import A",
    ],
)
def test_a_plugin_may_use_the_public_api(source: str) -> None:
    assert foreign_imports(ast.parse(source), "sslkit_rotnet") == []
