import signal
import subprocess
import sys
import time

import pytest

from src.runtime.distributed import SINGLE, ProcessGroup, launch
from tests.helpers.processes import ROOT


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_job_is_done_by_one_process_and_all_have_about_equally_much(size):
    sizes = [26032, 10000, 12630, 1880, 6300, 19850, 2700, 8041]
    shares = [ProcessGroup(rank, size, rank).assign(sizes) for rank in range(size)]
    assert sorted(job for share in shares for job in share) == list(range(8))
    loads = [sum(sizes[job] for job in share) for share in shares]
    assert max(loads) <= max(max(sizes), 1.2 * sum(sizes) / size)


def test_one_process_alone_waits_for_none():
    assert SINGLE.is_main and SINGLE.all_gather({"a": 1}) == [{"a": 1}]
    assert (SINGLE.all_reduce_sum(1.5), SINGLE.all_reduce_max(15)) == (1.5, 15)
    SINGLE.barrier()


GROUP_SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from src.runtime.distributed import init_distributed
group = init_distributed()
found = group.all_gather([group.rank, group.assign([5, 4, 3])])
assert found == [[0, [0]], [1, [1, 2]]], found
assert (group.all_reduce_sum(group.rank + 0.5), group.all_reduce_max(15 * group.rank)) == (2.0, 15)
group.barrier()
"""


def test_a_group_starts_gathers_and_ends():
    root = str(ROOT)
    assert launch([sys.executable, "-c", GROUP_SCRIPT.format(root=root)], 2) == 0


def test_when_one_process_fails_the_others_are_stopped():
    script = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)"
    started = time.monotonic()
    assert launch([sys.executable, "-c", script], 2) == 7
    assert time.monotonic() - started < 30


LAUNCHER = """
import sys
sys.path.insert(0, {root!r})
from src.runtime.distributed import launch
launch([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"], 2)
"""


def test_a_group_whose_starter_is_killed_ends_too():
    root = str(ROOT)
    starter = subprocess.Popen([sys.executable, "-c", LAUNCHER.format(root=root)], stdout=subprocess.PIPE, text=True)
    members = [int(starter.stdout.readline()) for _ in range(2)]
    starter.kill()
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(running, members)):
        assert time.monotonic() < deadline, "processes are left over"
        time.sleep(0.05)


def running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


GROUP_OF_SLEEPERS = """
import sys
sys.path.insert(0, {root!r})
from src.runtime.distributed import launch
script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
sys.exit(launch([sys.executable, "-c", script], 1))
"""


def test_a_second_interrupt_waits_for_no_process():
    starter = subprocess.Popen([sys.executable, "-c", GROUP_OF_SLEEPERS.format(root=str(ROOT))],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    starter.stdout.readline()
    started = time.monotonic()
    while starter.poll() is None:
        assert time.monotonic() - started < 20
        starter.send_signal(signal.SIGINT)
        time.sleep(0.3)
    starter.stdout.close()
