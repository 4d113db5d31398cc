"""Run entry scripts in processes that start fast (torch is imported once, then forked) and can be killed."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

from tests.conftest import ROOT

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["hydra", "command_line", "src.models.clip", "src.figures", "tests.killing"])


def _play(script: str, arguments: list[str], folder: Path) -> None:
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = [str(ROOT / script), *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def run_for(seconds: float | None, script: str, *arguments: str, folder: Path) -> bool:
    """Run a script, and `kill -9` it after so many seconds unless it ends before; None: let it end, which it must, well.

    Returns whether it was killed.
    """
    process = _context.Process(target=_play, args=(script, list(arguments), folder))
    process.start()
    process.join(seconds)
    killed = process.is_alive()
    if killed:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert killed or seconds is not None or process.exitcode == 0, (folder / "said.txt").read_text()
    return killed
