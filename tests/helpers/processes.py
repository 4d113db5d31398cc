"""Entry scripts in processes of their own that start fast: torch and the program are imported once, then forked."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "hydra",
        "command_line.merging",
        "command_line.session",
        "src.models.clip.model",
        "src.models.t5.model",
        "transformers.models.t5.modeling_t5",
        "src.reports.figures",
        "tests.helpers.processes",
    ]
)


def _run(script: str, arguments: list[str], folder: Path, outputs: list[str], prepare: Callable[[], None] | None) -> None:
    """Run a script in this process, its standard output and error appended to these files."""
    _redirect(folder, outputs)
    if prepare:
        prepare()
    sys.argv = [str(ROOT / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _execute(script: str, arguments: list[str], folder: Path, outputs: list[str]) -> None:
    """Replace this process by a new interpreter that runs a script, its output as `_run` has it."""
    _redirect(folder, outputs)
    os.execv(sys.executable, [sys.executable, str(ROOT / script), *arguments])


def _redirect(folder: Path, outputs: list[str]) -> None:
    os.chdir(folder)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ["COLUMNS"] = "100"


def start_script(script: str, *arguments: str, cwd: Path, log: Path, fresh: bool = False) -> BaseProcess:
    """Start an entry script in the folder `cwd`; what it prints is appended to `log`.

    fresh: in a new interpreter, which has to import everything.
    """
    command = (script, list(arguments), cwd, [str(log), str(log)])
    process = _context.Process(target=_execute, args=command) if fresh else _context.Process(target=_run, args=(*command, None))
    process.start()
    return process


def kill_after(process: BaseProcess, seconds: float | None, number: int = signal.SIGKILL) -> bool:
    """Send a signal to a process after some seconds, None for never; return whether it still ran, and has ended by it."""
    process.join(seconds)
    killed = process.is_alive()
    if killed:
        os.kill(process.pid, number)
        process.join(60)
        assert not process.is_alive(), "it does not end at the signal"
    return killed


def run_script(script: str, *arguments: str, cwd: Path, prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess:
    """Run an entry script as a user types it in the folder `cwd`; `prepare` is called in its process before it starts."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"{folder}/out", f"{folder}/err"]
        process = _context.Process(target=_run, args=(script, list(arguments), cwd, outputs, prepare))
        process.start()
        process.join(900)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{script} {' '.join(arguments)} still runs after 900 s")
        texts = [Path(path).read_text() for path in outputs]
    return subprocess.CompletedProcess([script, *arguments], process.exitcode, *texts)


def run_fresh(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run an entry script in a new interpreter and this process's environment, just as a user does it."""
    command, environment = [sys.executable, str(ROOT / script), *arguments], {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, timeout=900)


def run_for(seconds: float | None, script: str, *arguments: str, folder: Path, number: int = signal.SIGKILL) -> bool:
    """Run a script and kill it after some seconds; return whether it had to be killed.

    seconds: None to let it end, which must be with exit status 0.
    number: the signal to kill it with.
    """
    log = folder / "output.txt"
    log.unlink(missing_ok=True)
    process = start_script(script, *arguments, cwd=folder, log=log)
    killed = kill_after(process, seconds, number)
    assert killed or seconds is not None or process.exitcode == 0, log.read_text()
    return killed
