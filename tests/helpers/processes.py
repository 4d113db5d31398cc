"""Entry scripts in processes of their own that start fast: torch and the program are imported once, then forked."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "hydra",
        "command_line.merging",
        "command_line.session",
        "src.models.clip.model",
        "src.reports.figures",
        "tests.helpers.processes",
    ]
)


def _play(script: str, arguments: list[str], folder: Path, said: list[str], first: Callable[[], None] | None) -> None:
    os.chdir(folder)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ["COLUMNS"] = "100"
    if first:
        first()
    sys.argv = [str(ROOT / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def run_script(script: str, *arguments: str, cwd: Path, first: Callable[[], None] | None = None) -> subprocess.CompletedProcess:
    """An entry script as a user types it in the folder `cwd`; `first` is called in its process before it starts."""
    with tempfile.TemporaryDirectory() as folder:
        said = [f"{folder}/out", f"{folder}/err"]
        process = _context.Process(target=_play, args=(script, list(arguments), cwd, said, first))
        process.start()
        process.join(900)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{script} {' '.join(arguments)} still runs after 900 s")
        texts = [Path(path).read_text() for path in said]
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, *texts)


def run_fresh(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """As `run_script`, in a new interpreter and this process's environment, just as a user does it."""
    command, environment = [sys.executable, str(ROOT / script), *arguments], {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=900)


def run_for(seconds: float | None, script: str, *arguments: str, folder: Path, number: int = signal.SIGKILL) -> bool:
    """Run a script, and send it a signal (`kill -9`) after so many seconds unless it ends before; None: let it end, which it
    must, well.

    Returns whether it was killed.
    """
    said = str(folder / "said.txt")
    Path(said).unlink(missing_ok=True)
    process = _context.Process(target=_play, args=(script, list(arguments), folder, [said, said], None))
    process.start()
    process.join(seconds)
    killed = process.is_alive()
    if killed:
        os.kill(process.pid, number)
        process.join(60)
        assert not process.is_alive(), "it does not end at the signal"
    assert killed or seconds is not None or process.exitcode == 0, Path(said).read_text()
    return killed
