import threading
from collections.abc import Iterator

import pytest

from sslkit.contract import progress as module
from sslkit.contract.progress import Count, counting, watching


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def counts() -> Iterator[list[Count]]:
    """The counts that an observer sees."""
    counts: list[Count] = []
    with watching(counts.append):
        yield counts


def test_what_is_counted_is_reported_at_most_four_times_a_second(clock, counts):
    with counting("sorting", 1000) as count:
        for _ in range(100):
            count(5)
            clock[0] += 0.01
    assert counts[:3] == [Count("sorting", 130, 1000), Count("sorting", 255, 1000), Count("sorting", 380, 1000)]
    assert counts[3] == Count("sorting", 500, 1000, finished=True)
    assert len(counts) == 4


def test_what_is_done_at_once_is_not_reported(clock, counts):
    with counting("sorting") as count:
        count(1000)
        clock[0] += 1
    assert counts == []


def test_an_end_by_an_error_is_reported_too(clock, counts):
    def work() -> None:
        with counting("sorting") as count:
            clock[0] += 1
            count(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert counts == [Count("sorting", 3, None), Count("sorting", 3, None, finished=True)]


def test_nobody_needs_to_watch(clock, counts):
    with watching(counts.append):
        pass
    clock[0] += 1
    thread = threading.Thread(target=count_one)  # which nobody watches
    thread.start()
    thread.join()
    assert counts == []


def count_one() -> None:
    with counting("sorting") as count:
        count(1)


def test_the_innermost_watches_and_the_outer_one_again_after_it(monkeypatch, counts):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    inner: list[Count] = []
    with watching(inner.append):
        count_one()
    count_one()
    assert len(inner) == len(counts) == 2


def test_a_watcher_that_fails_is_dropped_and_the_work_goes_on(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    counts = []

    def fail(count: Count) -> None:
        counts.append(count)
        raise BrokenPipeError("nobody reads")

    with pytest.warns(RuntimeWarning, match=r"progress cannot be shown any more: BrokenPipeError\('nobody reads'\)"), watching(fail):
        count_one()
    assert len(counts) == 1
