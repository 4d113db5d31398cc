"""Progress of long runs: a bar in a terminal, plain lines now and then elsewhere; what sweeps leave behind."""

import os
import re
import socket
import sys

import pytest
from omegaconf import OmegaConf

from command_line import console
from command_line.console import LINE_SECONDS, AfterSweep, ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """Return the moments that `time.monotonic` takes from it."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_plain_line_now_and_then(clock, capsys):
    with ProgressBar("merging: ") as progress:
        progress.plan(100)
        for done in range(10):
            clock[0] += LINE_SECONDS / 4
            progress.report(f"part {done}", 10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("\r" not in line for line in lines)
    assert re.fullmatch(r"\d\d:\d\d:\d\d merging: part 3: 40 of 100 examples, \d+ (s|min) left", lines[0]), lines
    assert "part 7: 80 of 100 examples" in lines[1]


def test_bytes_are_told_in_megabytes_and_nothing_is_told_where_nothing_is_asked_for(clock, capsys):
    for silent in (False, True):
        progress = ProgressBar(unit="B", silent=silent)
        progress.plan(2 * 10**9)
        clock[0] += LINE_SECONDS
        progress.report("weights.safetensors", 10**9)
    (line,) = capsys.readouterr().err.splitlines()
    assert "weights.safetensors: 1,000 of 2,000 MB" in line


def test_a_terminal_gets_one_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar() as progress:
        progress.plan(4)
        for _ in range(4):
            clock[0] += LINE_SECONDS
            progress.report("Digits", 1)
    shown = capsys.readouterr().err
    assert "Digits" in shown and "\r" in shown and not re.search(r"\d\d:\d\d:\d\d Digits", shown)


def test_folders_of_sweeps_go_but_those_of_running_ones_and_those_with_logs(tmp_path):
    host, dead = socket.gethostname(), 2**22 + 1
    own, killed, running, elsewhere, logged = (
        tmp_path / f".sweep~20260101~{mark}"
        for mark in (
            f"{host}~{os.getpid()}~7",
            f"{host}~{dead}~0",
            f"{host}~{os.getppid()}~0",
            f"elsewhere~{dead}~0",
            f"{host}~{dead}~1",
        )
    )
    for folder in (killed, running, elsewhere, logged / ".submitit"):
        folder.mkdir(parents=True)
    config = OmegaConf.create({"results_dir": str(tmp_path), "hydra": {"sweep": {"dir": str(own)}}})
    AfterSweep().on_multirun_start(config)
    own.mkdir()
    AfterSweep().on_multirun_end(config)
    assert set(tmp_path.iterdir()) == {running, elsewhere, logged}
