import os
import sys
import time

import pytest

from src import team
from src.team import ALONE, Team, launch


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_job_is_done_by_one_process_and_all_have_about_equally_much(size):
    sizes = [26032, 10000, 12630, 1880, 6300, 19850, 2700, 8041]
    shares = [Team(rank, size, rank).share(sizes) for rank in range(size)]
    assert sorted(job for share in shares for job in share) == list(range(8))
    loads = [sum(sizes[job] for job in share) for share in shares]
    assert max(loads) <= max(max(sizes), 1.2 * sum(sizes) / size)


def test_one_process_alone_waits_for_none():
    assert ALONE.leads and ALONE.gathered({"a": 1}) == [{"a": 1}]
    ALONE.wait()


MEMBER = """
import sys
sys.path.insert(0, {root!r})
from src.team import join
team = join()
found = team.gathered([team.rank, team.share([5, 4, 3])])
assert found == [[0, [0]], [1, [1, 2]]], found
team.wait()
"""


def test_a_team_starts_gathers_and_ends():
    root = os.path.dirname(os.path.dirname(team.__file__))
    assert launch([sys.executable, "-c", MEMBER.format(root=root)], 2) == 0


def test_when_one_process_fails_the_others_are_stopped():
    script = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)"
    started = time.monotonic()
    assert launch([sys.executable, "-c", script], 2) == 7
    assert time.monotonic() - started < 30
