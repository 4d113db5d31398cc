import multiprocessing
import os
import threading

import pytest
import torch

from src.merging.engine.threads import Prefetched, parallel_map, thread_pool

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    """Two threads of this process, whatever the machine has, and a pool of two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    thread_pool.cache_clear()
    yield
    torch.set_num_threads(before)
    thread_pool.cache_clear()


def test_each_thread_of_the_pool_computes_alone_and_the_caller_keeps_its_own(two_threads):
    def threads_after_work(size: int) -> int:
        torch.ones(size) + 1
        return torch.get_num_threads()

    assert set(parallel_map(threads_after_work, [2**20] * 8, CPU)) == {1}
    assert torch.get_num_threads() == 2


def test_work_inside_the_pools_work_runs_in_its_own_thread(two_threads):
    def idents(_: int) -> set[int]:
        return {threading.get_ident(), *parallel_map(lambda _: threading.get_ident(), range(3), CPU)}

    found = list(parallel_map(idents, range(4), CPU))
    assert all(len(idents) == 1 for idents in found) and threading.get_ident() not in set.union(*found)


def test_reading_a_prefetched_entry_begins_the_next_ones_once_and_keeps_nothing(two_threads):
    made = []
    entries = Prefetched("abcdefgh", lambda key: made.append(key) or key.upper(), CPU)
    assert entries["a"] == "A"
    for future in entries._futures.values():
        future.result()
    assert sorted(made) == ["a", "b", "c"]
    assert [entries[key] for key in "bcdefgh"] == list("BCDEFGH") and sorted(made) == list("abcdefgh")
    assert not entries._futures
    assert entries["a"] == "A" and entries["h"] == "H" and made.count("a") == 2
    assert not entries._futures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_forked_process_makes_a_pool_of_its_own(two_threads):
    list(parallel_map(abs, range(4), CPU))
    child = multiprocessing.get_context("fork").Process(target=lambda: list(parallel_map(abs, range(4), CPU)))
    child.start()
    child.join(20)
    try:
        assert child.exitcode == 0
    finally:
        child.kill()
