import time
from threading import get_ident

import pytest

from sslkit.contract.progress import Count, watching
from sslkit.data.parallel import map_chunks


def test_results_come_in_order_and_things_are_counted_in_this_thread(monkeypatch):
    monkeypatch.setattr("sslkit.contract.progress._SECONDS", 0.0)
    counts: list[tuple[Count, int]] = []
    chunks = [[index] * (1 + index % 3) for index in range(50)]

    def work(chunk: list[int]) -> int:
        time.sleep(0.001 * (chunk[0] % 5))  # the first to begin are not the first to end
        return sum(chunk)

    with watching(lambda count: counts.append((count, get_ident()))):
        assert map_chunks(work, chunks, "adding") == [sum(chunk) for chunk in chunks]
    total = sum(len(chunk) for chunk in chunks)
    assert [count.done for count, _ in counts[:3]] == [1, 3, 6]
    assert counts[-1][0] == Count("adding", total, total, finished=True)
    assert {thread for _, thread in counts} == {get_ident()}


def test_after_an_error_nothing_new_is_begun():
    begun = []

    def work(chunk: list[int]) -> None:
        begun.append(chunk[0])
        time.sleep(0.01)
        if chunk[0] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_chunks(work, [[index] for index in range(2_000)], "adding")
    assert 3 in begun
    assert len(begun) < 1000


def test_nothing_is_nothing():
    assert map_chunks(len, [], "adding") == []
