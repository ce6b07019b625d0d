"""What a run shows: tables, charts, pictures and the page with all of them."""

import os
import sys

if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
    # A notebook's, which it hands on to every process, and which need not exist there. Matplotlib reads it once, on import; all that is
    # drawn here goes to files.
    _backend = os.environ.pop("MPLBACKEND")
    try:
        import matplotlib  # noqa: F401
    finally:
        os.environ["MPLBACKEND"] = _backend
