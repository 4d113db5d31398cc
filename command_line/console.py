"""Console output: errors as sentences instead of tracebacks, a progress bar, the end of a sweep."""

import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from command_line.composition import one_line
from command_line.plugins import own_error
from src.errors import UserError, plural
from src.runtime.environment import is_distributed, is_main_process
from src.runtime.files import is_abandoned, write_json
from src.runtime.signals import INTERRUPTED, StopRequested, end_by_signal

MAIN_FIRST = 15  # seconds that a process which found an error leaves to the main one, to say it once
LOGS = ".submitit"  # of jobs that other processes run, in the folder of a sweep
LINE_SECONDS = 30  # between two lines of progress where stderr is no terminal


def user_errors(script: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Return a Hydra script that prints errors the user can fix as sentences; a sweep goes on with its next job."""

    @functools.wraps(script)
    def run(config: DictConfig) -> None:
        try:
            script(config)
        except KeyboardInterrupt:
            end_by_signal(INTERRUPTED, signal.SIGINT)
        except StopRequested as error:
            end_by_signal(error, error.number)
        except Exception as error:
            status = _print_error(error)
            if status is None:
                raise
            if HydraConfig.get().mode != RunMode.MULTIRUN or is_distributed():  # a group has no next job without one of it
                sys.exit(status)
            hydra = HydraConfig.get()
            path = _failures(hydra.sweep.dir) / f"{hydra.job.num}.json"
            write_json(path, {"process": os.getpid(), "lines": _error_lines(error)})

    return run


def run_script(script: Callable[[], None]) -> int:
    """Run a script that has no Hydra of its own, its errors printed as sentences; return its exit status."""
    try:
        script()
    except KeyboardInterrupt:
        end_by_signal(INTERRUPTED, signal.SIGINT)
    except StopRequested as error:
        end_by_signal(error, error.number)
    except Exception as error:
        status = _print_error(error)
        if status is None:
            raise
        return status
    return 0


def _print_error(error: Exception) -> int | None:
    """Print an error as sentences; return the exit status, None (and print nothing) for a bug of ours."""
    lines = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else _error_lines(error)
    if lines is None:
        return None
    if not is_main_process():
        time.sleep(MAIN_FIRST)  # the main process has the same error, and ends the others when it has said so
    for line in lines:
        print(line, file=sys.stderr)
    return 1


def _error_lines(error: BaseException) -> list[str] | None:
    """Return the lines that say what the user can fix, of a sweep's job with its overrides; None for a bug of ours."""
    sentences = user_message(error)
    if sentences is None or not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return sentences and [f"error: {sentence}" for sentence in sentences]
    job = " ".join(HydraConfig.get().overrides.task)
    return [f"{job}: error: {sentence}" for sentence in sentences or ["its processes have said why"]]


def user_message(error: BaseException) -> list[str] | None:
    """Return the sentences of an exception that the user can fix; None for a bug of ours."""
    if isinstance(error, UserError):
        return error.problems
    if described := own_error(error):
        return [described]
    if isinstance(error, OSError | HydraException | OmegaConfBaseException):
        return [one_line(error)]
    if isinstance(error, MemoryError):
        return ["this machine ran out of memory; merge fewer or smaller models at a time, or lower batch_size"]
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for --help
        return [f"the device ran out of memory; lower batch_size or use device=cpu ({str(error).splitlines()[0]})"]
    return None


class AfterSweep(Callback):
    """Hydra's callback that prints, after a sweep, how many of its jobs failed, with the errors of other processes.

    A sweep's folder stays only where launchers of other processes left logs in it.
    """

    failed = 0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        for folder in Path(config.hydra.sweep.dir).parent.glob(".sweep~*"):
            if is_abandoned(folder.name):
                _remove_sweep(folder)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = _failures(config.hydra.sweep.dir)
        logs = Path(config.hydra.sweep.dir) / LOGS
        if logs.exists():
            print(f"results: {config.results_dir}/*.json; what each run printed: {logs}/*/*_log.out")
        jobs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        for job in jobs:
            if job["process"] != os.getpid():
                print(*job["lines"], sep="\n", file=sys.stderr)
        if jobs:
            AfterSweep.failed = sum(len(job["lines"]) for job in jobs)
            print(f"error: {plural(AfterSweep.failed, 'problem')} in this sweep, named above", file=sys.stderr)
        _remove_sweep(Path(config.hydra.sweep.dir))


def _remove_sweep(folder: Path) -> None:
    """Remove the folder of a sweep that has ended, unless there are logs in it."""
    if not (folder / LOGS).exists():
        shutil.rmtree(folder, ignore_errors=True)


def exit_status() -> int:
    """Return the exit status of a script: 1 if jobs of its sweep failed."""
    return int(AfterSweep.failed > 0)


def _failures(sweep: str) -> Path:
    """Return the folder in which the jobs of a sweep, which may run on other machines, leave their errors."""
    return Path(sweep) / "failures"


class ProgressBar:
    """A bar on stderr that says what is being done and how long is left; a plain line now and then where stderr is a file.

    prefix: before what is being done.
    unit: of the work; `B` for bytes.
    silent: whether nothing is shown.
    """

    def __init__(self, prefix: str = "", unit: str = "example", silent: bool = False):
        self.unit = unit
        self._prefix, self._silent = prefix, silent
        self._total = self._done = 0
        self._bar: Any = None
        self._started = self._line = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()

    def plan(self, more: int) -> None:
        """Expect `more` units of work."""
        self._total += more
        if self._bar is not None:
            self._bar.total = self._total

    def report(self, what: str, done: int) -> None:
        """Note that `done` more units of `what` are finished."""
        self._done += done
        if self._silent:
            return
        if sys.stderr.isatty():
            self._draw(what, done)
        elif time.monotonic() - self._line >= LINE_SECONDS:
            self._line = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {self._prefix}{what}: {self._figures()}", file=sys.stderr, flush=True)

    def _draw(self, what: str, done: int) -> None:
        if self._bar is None:  # once there is something to say, so that other bars may be drawn and done before
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._prefix + what, total=self._total, initial=self._done - done, unit=self.unit,
                unit_scale=self.unit == "B", leave=False, dynamic_ncols=True, mininterval=0.2,
            )  # fmt: skip
        self._bar.set_description_str(self._prefix + what, refresh=not done)
        self._bar.update(done)

    def _figures(self) -> str:
        """Return how much is done, and how long is left at the mean speed so far."""
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, f"{self.unit}s")
        figures = f"{self._done / scale:,.0f} of {max(self._total, self._done) / scale:,.0f} {unit}"
        if 0 < self._done < self._total:
            left = (time.monotonic() - self._started) * (self._total - self._done) / self._done
            figures += f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
        return figures
