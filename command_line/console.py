"""What a person sees of a run: sentences in place of tracebacks, progress, the end of a sweep."""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from src.errors import UserError
from src.runtime.distributed import is_leader, is_member
from src.runtime.files import write_json
from src.runtime.signals import Stopped

INTERRUPTED = "stopped; what was finished is kept, and a rerun goes on from there"
OTHERS_WAIT = 15  # seconds that a process which found an error leaves to the first one of its team, to say it once


def speaks_plainly(script: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Print what the user can mend as sentences and no traceback; in a sweep, go on with the next job."""

    @functools.wraps(script)
    def run(config: DictConfig) -> None:
        try:
            script(config)
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            os._exit(130)  # Hydra would show where it was
        except Stopped as request:
            if is_leader():
                print(request, file=sys.stderr, flush=True)
            os._exit(128 + request.number)
        except Exception as reason:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            sentences = plain(reason)
            if sentences is None:
                raise
            if not is_leader():
                time.sleep(OTHERS_WAIT)  # the first process has the same error, and ends the others when it has said so
            for sentence in sentences:
                print(f"error: {sentence}", file=sys.stderr)
            if HydraConfig.get().mode != RunMode.MULTIRUN or is_member():  # a team has no next job without one of it
                sys.exit(1)
            job = HydraConfig.get()
            path = _failures(job.sweep.dir) / f"{job.job.num}.json"
            write_json(path, {"process": os.getpid(), "sentences": sentences})

    return run


def plain(reason: BaseException | None) -> list[str] | None:
    """The sentences of an exception that is the user's to mend; None for a bug of ours."""
    while isinstance(reason, InstantiationException):
        if isinstance(reason.__cause__, TypeError):
            return [str(reason.__cause__)]
        reason = reason.__cause__
    if isinstance(reason, UserError):
        return reason.problems
    if isinstance(reason, OSError | HydraException | OmegaConfBaseException):
        return [str(reason)]
    if isinstance(reason, MemoryError):
        return ["this machine ran out of memory; merge fewer or smaller models at a time, or lower batch_size"]
    if isinstance(reason, torch.OutOfMemoryError):
        return [f"the device ran out of memory; lower batch_size or use device=cpu ({str(reason).splitlines()[0]})"]
    return None


def run_plainly(script: Callable[[], None]) -> int:
    """Run a script that has no Hydra of its own; its exit status."""
    try:
        script()
    except KeyboardInterrupt:
        if is_leader():
            print(INTERRUPTED, file=sys.stderr)
        return 130
    except Stopped as request:
        if is_leader():
            print(request, file=sys.stderr)
        return 128 + request.number
    except Exception as reason:
        sentences = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else plain(reason)
        if sentences is None:
            raise
        if not is_leader():
            time.sleep(OTHERS_WAIT)  # the first process has the same error, and ends the others when it has said so
        for sentence in sentences:
            print(f"error: {sentence}", file=sys.stderr)
        return 1
    return 0


class AfterSweep(Callback):
    """Says at the end of a sweep how many of its jobs failed, and what those said that ran in other processes."""

    failed = 0

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = _failures(config.hydra.sweep.dir)
        logs = Path(config.hydra.sweep.dir) / ".submitit"
        if logs.exists():
            print(f"results: {config.results_dir}/*.json; what each run printed: {logs}/*/*_log.out")
        jobs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        for job in jobs:
            if job["process"] != os.getpid():
                print(*(f"error: {sentence}" for sentence in job["sentences"]), sep="\n", file=sys.stderr)
        if jobs:
            AfterSweep.failed = sum(len(job["sentences"]) for job in jobs)
            problems = "1 problem" if AfterSweep.failed == 1 else f"{AfterSweep.failed} problems"
            print(f"error: {problems} in this sweep, named above", file=sys.stderr)


def exit_status() -> int:
    """What a script ends with: 1 if jobs of its sweep failed."""
    return int(AfterSweep.failed > 0)


def _failures(sweep: str) -> Path:
    """Where the jobs of a sweep, which may run on other machines, leave what went wrong in them."""
    return Path(sweep) / "failures"


@dataclass
class Progress:
    """A bar on stderr that says what is being done and how long is left; sparse lines where stderr is no terminal."""

    prefix: str = ""
    unit: str = "image"
    total: int = 0
    silent: bool = False

    def __enter__(self) -> "Progress":
        return self

    @cached_property
    def _bar(self) -> tqdm:
        """Drawn once there is something to say, so that others may be drawn and done before."""
        pause = {"mininterval": 0.2} if sys.stderr.isatty() else {"mininterval": 30, "delay": 30}
        scale = {"unit": self.unit, "unit_scale": self.unit == "B"}
        return tqdm(total=self.total, leave=False, disable=self.silent, dynamic_ncols=True, **scale, **pause)

    def __exit__(self, *_: object) -> None:
        self.done()

    def done(self) -> None:
        """Take the bar away: what is printed next stands alone."""
        if "_bar" in vars(self):
            self._bar.close()

    def plan(self, more: int) -> None:
        """`more` units of work are known to come."""
        self.total += more
        if "_bar" in vars(self):
            self._bar.total = self.total

    def report(self, what: str, done: int) -> None:
        """`done` more units of `what` are finished."""
        self._bar.set_description_str(self.prefix + what, refresh=not done and sys.stderr.isatty())
        self._bar.update(done)
