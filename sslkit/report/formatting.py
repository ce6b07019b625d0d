"""How numbers and durations are written, the same in the terminal and in a report."""


def number(value: float | None) -> str:
    """A metric to two digits after the point, a smaller one to two that tell: a loss of 0.0042 is not 0.00. Empty where there is none."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def signed(value: float | None) -> str:
    """A difference with its sign; one that rounds to nothing is ``+0.00``, never ``-0.00``."""
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def duration(seconds: float) -> str:
    """``3.2 s``, ``3 min 05 s`` or ``3 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
