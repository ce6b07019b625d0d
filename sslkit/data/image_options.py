"""Checks of the options that datasets of different kinds have in common."""

import math

from sslkit.contract.errors import OptionError
from sslkit.contract.images import Window


def check_statistics(num_chs: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Refuse a mean or std (None: the default) that cannot normalise images of ``num_chs`` channels with values in [0, 1]."""
    for option, values in (("mean", mean), ("std", std)):
        if values is not None and (
            len(values) != num_chs or not all(0 <= value <= 1 for value in values) or (values is std and 0 in values)
        ):
            interval = "[0, 1]" if option == "mean" else "(0, 1]"
            raise OptionError(option, "does not fit the images", found=values, allowed=f"{num_chs} values in {interval}")


def check_window(window: Window | None) -> None:
    """Refuse a window that is not two finite pixel values, the smaller one first."""
    if window is not None and not -math.inf < window[0] < window[1] < math.inf:
        raise OptionError("window", "must be two values, the smaller one first", found=window, allowed="[low, high]")


def check_display(num_chs: int | None, display: tuple[int, ...]) -> None:
    """Refuse channels to draw that are neither three nor one of ``num_chs``; None: of an unknown number."""
    if len(display) not in (0, 1, 3) or not all(0 <= index < (num_chs or index + 1) for index in display):
        allowed = "one channel or three" if num_chs is None else f"one channel or three, 0 to {num_chs - 1}"
        raise OptionError("display", "cannot be drawn", found=display, allowed=allowed)
