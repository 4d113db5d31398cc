"""Worker processes of training batches: the same batches however many, and ended without touching anyone else's."""

import multiprocessing
import signal
import time

import pytest
from torch.utils.data import Dataset

from src.errors import UserError
from src.models import loader
from src.models.loader import load_batches

BATCHES = [[(0, 1), (0, 2)], [(0, 3)], [(1, 1)]]


class Doubles(Dataset):
    def __getitems__(self, ids: list[tuple[int, int]]) -> list[int]:
        return [2 * example + epoch for epoch, example in ids]


class Refusing(Dataset):
    def __getitems__(self, ids: list[tuple[int, int]]) -> UserError:
        return UserError("photograph.jpg is not an image")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_however_many_workers_make_them(workers):
    assert list(load_batches(Doubles(), BATCHES, workers, pinned=False)) == [[2, 4], [6], [3]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_the_users_sentence(workers):
    with pytest.raises(UserError, match=r"photograph\.jpg"):
        next(load_batches(Refusing(), BATCHES, workers, pinned=False))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")
def test_only_our_own_workers_are_ended_and_the_end_is_registered_once(monkeypatch):
    registered = []
    monkeypatch.setattr(loader, "_workers", set())
    monkeypatch.setattr(loader.atexit, "register", registered.append)
    monkeypatch.setattr(loader.util, "Finalize", lambda *_, **__: None)
    others = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    others.start()
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        batches = [load_batches(Doubles(), BATCHES * 10, 1, pinned=False) for _ in range(2)]
        workers = set(multiprocessing.active_children()) - {others}
        assert len(workers) == 2 and len(registered) == 1
        registered[0]()
        for worker in workers:
            worker.join(10)
        others.join(0.3)
        assert others.is_alive() and not any(worker.is_alive() for worker in workers)
    finally:
        signal.signal(signal.SIGCHLD, handler)
        others.kill()
        others.join()
        del batches
