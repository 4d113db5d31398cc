"""The processes that share a run's work: one a GPU, started by torchrun or by world_size=N; usually just this one."""

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
from torch.nn.parallel import DistributedDataParallel

from src.runtime.signals import SIGNALS

Thing = TypeVar("Thing")
PATIENCE = datetime.timedelta(days=7)  # one process may score for hours while the others wait
MEETING = "MERGING_TEAM"  # names the file in which the processes of `launch` find one another
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork it is too late
GRACE = 30  # seconds a process has to end after it was told to


@dataclass(frozen=True)
class Team:
    """`size` processes, of which this is number `rank`; `local` is its number on this machine."""

    rank: int
    size: int
    local: int

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The numbers of the jobs that are this process's, so that all have about equally much; in order."""
        loads, mine = [0] * self.size, []
        for number in sorted(range(len(sizes)), key=lambda job: (-sizes[job], job)):
            laziest = loads.index(min(loads))
            loads[laziest] += sizes[number]
            if laziest == self.rank:
                mine.append(number)
        return sorted(mine)

    def gathered(self, mine: Thing) -> list[Thing]:
        """What every process has, by rank; waits for all."""
        if self.size == 1:
            return [mine]
        everyone: list = [None] * self.size
        dist.all_gather_object(everyone, mine)
        return everyone

    def total(self, mine: float) -> float:
        """The sum over all processes."""
        return mine if self.size == 1 else self._reduced(mine, dist.ReduceOp.SUM)

    def largest(self, mine: int) -> int:
        """The largest of all processes' numbers."""
        return mine if self.size == 1 else int(self._reduced(mine, dist.ReduceOp.MAX))

    def _reduced(self, mine: float, how: dist.ReduceOp) -> float:
        numbers = torch.tensor([mine], dtype=torch.float64)
        dist.all_reduce(numbers, how)
        return numbers.item()

    def replicated(self, module: nn.Module) -> nn.Module:
        """`module` such that every backward pass through it leaves the mean of all processes' gradients in each."""
        return module if self.size == 1 else DistributedDataParallel(module, gradient_as_bucket_view=True)

    def wait(self) -> None:
        """Until every process is here."""
        self.total(0)


ALONE = Team(rank=0, size=1, local=0)


def join() -> Team:
    """The team that torchrun's environment describes; this process alone without one."""
    if not is_member():
        return ALONE
    if not dist.is_initialized():
        meeting = os.environ.get(MEETING)
        numbers = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])} if meeting else {}
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=meeting, timeout=PATIENCE, **numbers)
        atexit.register(dist.destroy_process_group)  # whose threads would be torn down with the interpreter
    team = Team(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
    if torch.cuda.is_available():
        torch.cuda.set_device(team.local % torch.cuda.device_count())
    return team


def is_member() -> bool:
    """Whether torchrun, or another launcher that speaks its language, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def members_here() -> int:
    """How many processes of the team share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_member() else 1


def is_leader() -> bool:
    """Whether this process speaks for its team, also before it joined."""
    return not is_member() or os.environ["RANK"] == "0"


def launch(command: Sequence[str], size: int) -> int:
    """Run `size` copies of `command` on this machine as one team; the exit status of the first that fails, or 0.

    When one fails, or this process is told to stop, the others are stopped, too.
    """
    folder = tempfile.TemporaryDirectory()
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // size, 1)))
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": threads}
    common[MEETING] = f"file://{folder.name}/meeting"
    members: list[subprocess.Popen] = []
    asked: list[int] = []  # to end, by which signals

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for member in members:
            # a terminal's Ctrl-C reaches them, too, and a second one would end them at once
            member.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        for rank in range(size):
            environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            members.append(subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent))
        if asked:
            pass_on(asked[0], None)  # to those that were only starting
        while True:
            statuses = [member.poll() for member in members]
            failed = [status for status in statuses if status]
            if asked or failed or None not in statuses:
                break
            time.sleep(0.1)
        if not asked and not any(status - 128 in SIGNALS for status in failed):  # those that stop do so together
            for member in members:
                member.terminate()
        _end(members)
        return 128 + asked[0] if asked else failed[0] if failed else 0
    finally:
        for member in members:
            if member.poll() is None:
                member.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
        folder.cleanup()


def _end(members: Sequence[subprocess.Popen]) -> None:
    """Wait for all, for as long as a state takes to be written."""
    deadline = time.monotonic() + GRACE
    for member in members:
        with contextlib.suppress(subprocess.TimeoutExpired):
            member.wait(max(deadline - time.monotonic(), 0))


def _end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is killed and cannot do so."""
    if LIBC:
        LIBC.prctl(1, signal.SIGTERM)
