"""The processes that share one run's work: one a GPU, started by torchrun or by world_size=N; usually just this one."""

import atexit
import contextlib
import ctypes
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from src.runtime.environment import available_cores, is_distributed
from src.runtime.signals import SIGNALS

T = TypeVar("T")
TIMEOUT = datetime.timedelta(days=7)  # one process may score for hours while the others wait
RENDEZVOUS = "MERGING_RENDEZVOUS"  # the environment variable with the file in which the processes of `launch` meet
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork it is too late
GRACE = 30  # seconds that a process has to end after SIGTERM


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run.

    rank: number of this process in the group.
    size: number of processes.
    local_rank: number of this process among those on its machine.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def assign(self, sizes: Sequence[int]) -> list[int]:
        """Return the indices of the jobs that this process does, ascending.

        sizes: the work of each job. The largest jobs are dealt out first, each to the least loaded process.
        """
        loads, assigned = [0] * self.size, []
        for job in sorted(range(len(sizes)), key=lambda job: (-sizes[job], job)):
            rank = loads.index(min(loads))
            loads[rank] += sizes[job]
            if rank == self.rank:
                assigned.append(job)
        return sorted(assigned)

    def all_gather(self, value: T) -> list[T]:
        """Return every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_sum(self, value: float) -> float:
        """Return the sum of all processes' `value`."""
        return value if self.size == 1 else _all_reduce(value, dist.ReduceOp.SUM)

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all processes' `value`."""
        return value if self.size == 1 else int(_all_reduce(value, dist.ReduceOp.MAX))

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.all_reduce_sum(0)

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """Return `module` such that a backward pass through it leaves the mean of all processes' gradients in each."""
        return module if self.size == 1 else nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)


SINGLE = ProcessGroup(rank=0, size=1, local_rank=0)


def _all_reduce(value: float, operation: dist.ReduceOp) -> float:
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, operation)
    return tensor.item()


def init_distributed() -> ProcessGroup:
    """Return the process group that torchrun's environment variables describe; `SINGLE` without them."""
    if not is_distributed():
        return SINGLE
    if not dist.is_initialized():
        rendezvous = os.environ.get(RENDEZVOUS)
        ranks = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])} if rendezvous else {}
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=rendezvous, timeout=TIMEOUT, **ranks)
        atexit.register(dist.destroy_process_group)  # whose threads would be torn down with the interpreter
    group = ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
    if torch.cuda.is_available():
        torch.cuda.set_device(group.local_rank % torch.cuda.device_count())
    return group


def launch(command: Sequence[str], size: int) -> int:
    """Run `size` copies of `command` on this machine as one process group.

    Return the exit status of the first that fails, or 0. When one fails, or this process gets a signal to end, the
    others are ended, too.
    """
    folder = tempfile.TemporaryDirectory()
    threads = os.environ.get("OMP_NUM_THREADS", str(max(available_cores() // size, 1)))
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": threads}
    common[RENDEZVOUS] = f"file://{folder.name}/rendezvous"
    processes: list[subprocess.Popen] = []
    received: list[int] = []  # signals to end

    def forward(number: int, _: object) -> None:
        received.append(number)
        if received.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt  # a second Ctrl-C waits for nobody
        for process in processes:
            # a terminal's Ctrl-C reaches them, too, and a second one would end them at once
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    handlers = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        for rank in range(size):
            environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent))
        if received:
            forward(received[0], None)  # to those that were only starting
        while True:
            statuses = [process.poll() for process in processes]
            failures = [status for status in statuses if status]
            if received or failures or None not in statuses:
                break
            time.sleep(0.1)
        if not received and not any(status - 128 in SIGNALS for status in failures):  # those that stop do so together
            for process in processes:
                process.terminate()
        _wait_for(processes)
        return 128 + received[0] if received else failures[0] if failures else 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        folder.cleanup()


def _wait_for(processes: Sequence[subprocess.Popen]) -> None:
    """Wait for all, for as long as a training state takes to be written."""
    deadline = time.monotonic() + GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed and cannot do so."""
    if LIBC:
        LIBC.prctl(1, signal.SIGTERM)
