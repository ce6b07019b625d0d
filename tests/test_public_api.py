import ast
import importlib
import operator
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sslkit

STUB = ast.parse(Path(sslkit.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
HOMES = {
    alias.name: f"sslkit.{node.module}" for node in STUB.body if isinstance(node, ast.ImportFrom) and node.module for alias in node.names
}


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_sslkit_is_light():
    heavy = ("torch", "torchvision", "timm", "pydantic", "pluggy", "typer", "rich", "sklearn", "numpy")
    run_python(f"import sys, sslkit; dir(sslkit); found = set({heavy}) & set(sys.modules); assert not found, found")


@pytest.mark.slow
def test_scikit_learn_is_imported_only_where_it_is_used():
    run_python("import sys, sslkit; sslkit.run_recipe, sslkit.load_catalog().offers; assert 'sklearn' not in sys.modules")


def test_errors_and_events_need_no_torch():
    run_python("import sys; from sslkit import OptionError, SslkitError, StepEnd, __version__; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("name", HOMES)
def test_every_public_name_resolves_to_its_home(name):
    assert getattr(sslkit, name) is getattr(importlib.import_module(HOMES[name]), name)


def test_the_whole_contract_and_every_error_and_event_is_public():
    concepts = [
        importlib.import_module(f"sslkit.contract.{name}")
        for name in ("images", "backbone", "objective", "evaluator", "runtime", "training")
    ]
    contract = {name for module in concepts for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    contract = {name for name in contract if name[0].isupper()}
    assert len(contract) > 15
    errors, events = (importlib.import_module(f"sslkit.contract.{name}") for name in ("errors", "events"))
    classes = [value for module in (errors, events) for value in vars(module).values() if isinstance(value, type)]
    kinds = {value.__name__ for value in classes if issubclass(value, errors.SslkitError | events.Event)}
    assert len(kinds) > 10
    assert {"Observer", "Split", *contract, *kinds} <= HOMES.keys()


def test_names_are_shown():
    assert set(sslkit.__all__) == {"views", *HOMES} <= set(dir(sslkit))


def test_the_version_is_the_distributions():
    assert sslkit.__version__ == version("sslkit")


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match="No sslkit attribute Backbones"):
        operator.attrgetter("Backbones")(sslkit)
    with pytest.raises(ImportError, match="cannot import name 'Backbones'"):
        exec("from sslkit import Backbones")
