"""sslkit: self-supervised learning with pluggable pretext tasks.

Every public name is importable from here; ``__init__.pyi`` lists them. They are resolved on first use (PEP 562), so that
``import sslkit`` and ``sslkit --help`` need no torch.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("sslkit")
