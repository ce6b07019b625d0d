"""What a run shows: tables, charts, pictures and the page with all of them."""

import os
import sys

if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
    # A notebook passes its own to every process, where it need not exist. Matplotlib reads it once, on import; everything here is drawn
    # into files.
    _backend = os.environ.pop("MPLBACKEND")
    try:
        import matplotlib  # noqa: F401
    finally:
        os.environ["MPLBACKEND"] = _backend
