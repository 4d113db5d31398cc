import torch

from src.merging.engine.threads import Prefetched, parallel_map, thread_pool

CPU = torch.device("cpu")


def test_each_thread_of_the_pool_computes_alone_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()

    def threads_after_work(size: int) -> int:
        torch.ones(size) + 1
        return torch.get_num_threads()

    assert set(parallel_map(threads_after_work, [2**20] * 8, CPU)) == {1}
    assert torch.get_num_threads() == before


def test_work_inside_the_pools_work_runs_in_its_own_thread():
    inner = parallel_map(lambda number: list(parallel_map(lambda n: n * number, range(3), CPU)), range(4), CPU)
    assert list(inner) == [[0, 0, 0], [0, 1, 2], [0, 2, 4], [0, 3, 6]]


def test_reading_a_prefetched_entry_begins_the_next_ones_once():
    made = []
    entries = Prefetched("abcdefgh", lambda key: made.append(key) or key.upper(), CPU)
    assert [entries[key] for key in entries] == list("ABCDEFGH")
    assert sorted(made) == list("abcdefgh")
    assert thread_pool() is thread_pool() and entries["a"] == "A" and made.count("a") == 2
