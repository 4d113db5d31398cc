"""The benchmark of kills: a program that writes in place and litters is found out, and this one passes at small size."""

import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.kills import BUG, CHANGED, COMPLETED, DIFFERENT, KINDS, LEFT, RACES, TORN, UNREADABLE, Bench, Kind, measure
from benchmarks.wholeness import drafts, left_behind, list_files, locks, state_of, torn, unreadable

FAULTS = {TORN, UNREADABLE, DIFFERENT, LEFT, CHANGED, BUG}
IN_PLACE = """
import sys, time
from pathlib import Path
Path("result.json").write_text('{"value": ')
Path(".draft").write_text("")
time.sleep(1.5)
Path("result.json").write_text('{"value": %s}' % sys.argv[1])
"""


class Late(random.Random):
    """Moments and signals late in a run."""

    def uniform(self, a: float, b: float) -> float:
        return a + 0.7 * (b - a)


def bench_of(tmp_path: Path, script: str, is_whole: bool = False) -> Bench:
    """Return the bench of a script that takes the number it writes."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "base").write_text("weights")
    (tmp_path / "script.py").write_text(script)
    return Bench("odd", Kind(str(tmp_path / "script.py"), ("1",), ("2",), is_whole), tmp_path, Late(0))


def test_a_program_that_writes_in_place_and_leaves_drafts_is_found_out(tmp_path):
    bench = bench_of(tmp_path, IN_PLACE)
    bench.kill(fresh=False)
    assert {fault for fault in FAULTS if bench.kills.counts[fault]} == {TORN, UNREADABLE, LEFT}
    assert bench.kills.counts[COMPLETED] == 1
    assert bench.kills.problems == ["torn: result.json", "unreadable: result.json", "left behind: .draft"]


def test_a_program_that_changes_inputs_and_forgets_its_result_after_a_kill_is_found_out(tmp_path):
    script = """
import sys, time
from pathlib import Path
if Path("began").exists():
    Path("../inputs/base").write_text("none")
    sys.exit("Traceback (most recent call last):")
Path("began").write_text("")
time.sleep(1.5)
Path("began").unlink()
Path("result").write_text(sys.argv[1])
"""
    bench = bench_of(tmp_path, script)
    bench.kill(fresh=False)
    counts = bench.kills.counts
    assert counts[COMPLETED] == 0 and all(counts[fault] for fault in (DIFFERENT, LEFT, CHANGED, BUG))


def test_a_mixture_of_two_runs_is_found_out(tmp_path):
    script = """
import sys, time
from pathlib import Path
first, second, number = Path("both/a"), Path("both/b"), sys.argv[1]
first.parent.mkdir(exist_ok=True)
if number == "1":
    first.write_text(number)
    for _ in range(100):
        time.sleep(0.01 * (first.read_text() == number))
    second.write_text(number)
else:
    for _ in range(100):
        time.sleep(0.01 * (not first.exists()))
    second.write_text(number)
    first.write_text(number)
"""
    bench = bench_of(tmp_path, script, is_whole=True)
    bench.race()
    assert bench.races.problems == ["torn: both"]


def test_what_is_torn_unreadable_or_left_behind(tmp_path):
    save_file({"w": torch.ones(4)}, tmp_path / "merged.safetensors")
    (tmp_path / "record.json").write_text('{"value": 1, "seconds": 2}')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part").write_text("1")
    earlier, files = state_of(tmp_path), list_files(tmp_path)
    assert set(earlier) == {"merged.safetensors", "record.json", "folder/part"} and not unreadable(tmp_path)
    (tmp_path / "record.json").write_text('{"value": 1, "seconds": 3}')
    assert state_of(tmp_path) == earlier, "seconds differ between equal runs"
    (tmp_path / "record.json").write_text('{"value": 2, "seconds": 3}')
    later = state_of(tmp_path)
    assert torn(earlier, earlier, later) == torn(later, earlier, later) == []
    whole = (tmp_path / "merged.safetensors").read_bytes()
    (tmp_path / "merged.safetensors").write_bytes(whole[:-1])
    (tmp_path / "record.json").write_text('{"value": ')
    for name in (".merged~host~1~0.part", ".a.lock", "new"):
        (tmp_path / name).write_text("")
    assert torn(state_of(tmp_path), earlier, later) == ["merged.safetensors", "new", "record.json"]
    assert unreadable(tmp_path) == ["merged.safetensors", "record.json"]
    assert drafts(tmp_path) == [".merged~host~1~0.part"] and locks(tmp_path) == [".a.lock"]
    assert left_behind(tmp_path, files) == [".merged~host~1~0.part", "new"]
    (tmp_path / "folder" / "part").unlink()
    assert "folder/part" in torn(state_of(tmp_path), earlier, later)


def test_a_folder_that_is_written_whole_is_one_result(tmp_path):
    (tmp_path / "merged").mkdir()
    states = []
    for values in ("11", "22", "12"):
        for name, value in zip("ab", values):
            (tmp_path / "merged" / name).write_text(value)
        states.append(Kind("", (), (), is_whole=True).state(tmp_path))
    assert [torn(state, *states[:2]) for state in states] == [[], [], ["merged"]]


def test_this_program_passes_at_small_size(tmp_path):
    kinds = {name: KINDS[name] for name in ("file", "conversion")}
    for bench in measure(kinds, count=2, races=1, seed=0, folder=tmp_path).values():
        assert bench.kills.problems == bench.races.problems == []
        assert bench.kills.counts[COMPLETED] == 1 and bench.races.counts[RACES] == 1
