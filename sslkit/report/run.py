"""A whole recipe with its report: the public :func:`run_recipe`."""

import os
from collections.abc import Callable, Iterable

from sslkit.contract.events import Observer
from sslkit.recipe.recipe import Recipe
from sslkit.report.page import write_run_report
from sslkit.run.runner import RunResult, run_stages


def run_recipe(
    recipe: Recipe,
    *,
    output: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    extend: bool = False,
    observers: Iterable[Observer] = (),
    max_minutes: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: bool = True,
) -> RunResult:
    """Run a recipe's stages in order.

    Started again, it skips what is finished and resumes what is not; the outcome has the same bits as an uninterrupted run's on the
    same device and versions. One process at a time runs in a folder.

    Args:
        recipe: a loaded recipe.
        output: the run's folder; None: ``runs/<name>``.
        fresh: remove what earlier starts of these stages left in the folder.
        extend: continue each pretraining that is finished, or has diverged, from its last checkpoint, if the recipe now has more epochs for
            it (or, where it is not finished, another ``on_nan``, ``clip_grad_norm`` or ``schedule``). Stages that its network goes into run
            again.
        observers: are notified of every event, beside the recipe's own.
        max_minutes: stop after so many minutes, at the end of a step; None: no limit.
        should_stop: asked after every step, and after every batch that is only measured; None: Ctrl-C stops after the step it falls in,
            and so do SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXCPU where nobody else ignores or handles them.
        report: write ``report.html`` and its tables at the end.

    Raises:
        RecipeError: the recipe does not fit the data or the machine; nothing was computed.
        ArtifactError: the folder holds a run of a different recipe, or another process runs in it.
        RunFailedError: a loss diverged, memory or the disk does not suffice, or the folder was removed.
        RunInterruptedError: stopped on request; starting again resumes it.
    """
    return run_stages(
        recipe,
        output=output,
        fresh=fresh,
        extend=extend,
        observers=observers,
        max_minutes=max_minutes,
        should_stop=should_stop,
        report=write_run_report if report else None,
    )
