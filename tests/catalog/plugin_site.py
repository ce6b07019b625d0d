"""Distributions with plugins, as an installer leaves them on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sslkit.contract.objective import PretextTask


class Task(PretextTask):
    """Builds nothing."""

    def build_objective(self, backbone, data):
        raise NotImplementedError


HEAD = """
from sslkit.catalog.discovery import hookimpl
from sslkit.contract.objective import PretextTask
from sslkit.contract.training import Schedule

class Task(PretextTask):
    def build_objective(self, backbone, data):
        raise NotImplementedError
"""

GOOD = HEAD + "@hookimpl\ndef pretext_tasks():\n    return {'good': Task}\n"


@dataclass
class Site:
    """A folder on sys.path into which tests install distributions."""

    folder: Path

    def install(
        self, name: str, source: str = "", *, module: str = "", version: str = "1.0", entries: Mapping[str, str] | None = None
    ) -> None:
        """Install ``sslkit-<name>``: a module ``site_<name>`` behind the entry point ``<name>``, unless said otherwise."""
        module = module or f"site_{name}"
        if source:
            (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"sslkit_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sslkit-{name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in (entries or {name: module}).items()]
        (info / "entry_points.txt").write_text("\n".join(["[sslkit]", *lines]))
