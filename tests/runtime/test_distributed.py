import subprocess
import sys
import time

import pytest
import torch

import command_line
from src.errors import UserError
from src.runtime.distributed import ALONE, Team, launch
from tests.helpers.processes import ROOT


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_job_is_done_by_one_process_and_all_have_about_equally_much(size):
    sizes = [26032, 10000, 12630, 1880, 6300, 19850, 2700, 8041]
    shares = [Team(rank, size, rank).share(sizes) for rank in range(size)]
    assert sorted(job for share in shares for job in share) == list(range(8))
    loads = [sum(sizes[job] for job in share) for share in shares]
    assert max(loads) <= max(max(sizes), 1.2 * sum(sizes) / size)


def test_one_process_alone_waits_for_none():
    assert ALONE.leads and ALONE.gathered({"a": 1}) == [{"a": 1}]
    assert (ALONE.total(1.5), ALONE.largest(15)) == (1.5, 15)
    ALONE.wait()


MEMBER = """
import sys
sys.path.insert(0, {root!r})
from src.runtime.distributed import join
team = join()
found = team.gathered([team.rank, team.share([5, 4, 3])])
assert found == [[0, [0]], [1, [1, 2]]], found
assert (team.total(team.rank + 0.5), team.largest(15 * team.rank)) == (2.0, 15)
team.wait()
"""


def test_a_team_starts_gathers_and_ends():
    root = str(ROOT)
    assert launch([sys.executable, "-c", MEMBER.format(root=root)], 2) == 0


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


def test_a_team_whose_starter_is_killed_ends_too():
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


def test_a_batch_for_a_gpu_is_made_with_the_gpus_number(monkeypatch):
    """Threads have no current GPU of their own, and batches are made in one."""
    config = command_line.composed(["device=cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert command_line.device_of(config) == torch.device("cuda", 3)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="one GPU"):
        command_line.device_of(command_line.composed(["device=cuda:0"]))


def test_a_team_scores_as_many_models_at_once_as_its_poorest_process_can(monkeypatch):
    class Two(Team):
        def gathered(self, mine):
            return [mine, 3]

    config, two = command_line.composed([]), Two(0, 2, 0)
    assert command_line.at_once(config, torch.device("cpu"), 2**20, two) == 3
    assert command_line.at_once(config, torch.device("cpu"), 2**20, ALONE) == 8
    assert command_line.at_once(config, torch.device("cpu"), 2**60, ALONE) == 1
