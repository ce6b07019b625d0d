import ast
import importlib
import operator
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sslkit

SOURCE = ast.parse(Path(sslkit.__file__).read_text(encoding="utf-8"))
PUBLIC = [name for name in sslkit.__all__ if name != "__version__"]


def typed_imports() -> dict[str, str]:
    """{name: module} of the imports that only type checkers see."""
    block = next(node for node in SOURCE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {alias.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_sslkit_is_light():
    heavy = ("torch", "torchvision", "timm", "pydantic", "pluggy", "typer", "rich", "sklearn", "numpy")
    run_python(f"import sys, sslkit; dir(sslkit); found = set({heavy}) & set(sys.modules); assert not found, found")


def test_errors_and_events_need_no_torch():
    run_python("import sys; from sslkit import OptionError, SslkitError, StepEnd, __version__; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_to_its_home(name):
    home = importlib.import_module(typed_imports()[name])
    assert getattr(sslkit, name) is getattr(home, name)


def test_type_checkers_see_what_is_resolved():
    assert typed_imports() == sslkit._HOME_OF
    assert sorted(typed_imports()) == sorted(PUBLIC)


def test_the_whole_contract_and_every_error_and_event_is_public():
    concepts = [importlib.import_module(f"sslkit.contract.{name}") for name in ("images", "backbone", "objective", "evaluator", "training")]
    contract = {name for module in concepts for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    contract = {name for name in contract if name[0].isupper()}
    assert len(contract) > 15
    errors, events = (importlib.import_module(f"sslkit.contract.{name}") for name in ("errors", "events"))
    classes = [value for module in (errors, events) for value in vars(module).values() if isinstance(value, type)]
    kinds = {value.__name__ for value in classes if issubclass(value, errors.SslkitError | events.Event)}
    assert len(kinds) > 10
    assert {"Observer", "Split", *contract, *kinds} <= set(PUBLIC)


def test_names_are_listed_once_and_shown():
    assert len(set(sslkit.__all__)) == len(sslkit.__all__)
    assert set(sslkit.__all__) <= set(dir(sslkit))


def test_the_version_is_the_distributions():
    assert sslkit.__version__ == version("sslkit")


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match=re.escape("module 'sslkit' has no attribute 'Backbones'")):
        operator.attrgetter("Backbones")(sslkit)
    with pytest.raises(ImportError, match="cannot import name 'Backbones'"):
        exec("from sslkit import Backbones")
