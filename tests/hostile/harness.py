"""Hostile files against the real program: a command a process, forked from one that has imported the program, with bounds.

A table is a module beside this one with `FILES`, a dict from names to functions that write one hostile file or folder at a
path, and `commands(path)`, the command lines that read it. `HARMLESS` names the files that may be read without an error,
`GOOD` those that must be: they show that the others are refused for what they are.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hydra.core.plugins import Plugins

ROOT = Path(__file__).parent.parent.parent
CANARY = "executed"  # a file that payloads would make in the folder they run in
MAX_SECONDS, MAX_BYTES, MAX_SENTENCES = 20, 2**31, 6
ADDRESS_SPACE = 2**34  # bytes above those of the program, of which only MAX_BYTES may be used
PRELOADED = (
    "command_line.experiments",
    "command_line.files",
    "command_line.merging",
    "command_line.session",
    "command_line.start",
    "src.checkpoints.conversion",
    "src.models.clip.model",
    "torch._dynamo",
)
STARTS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
CONNECTIONS = ("socket.connect", "socket.sendto", "socket.bind")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod", "os.chown")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    status: exit status, below zero for a signal.
    size: peak resident bytes.
    acts: what it did that no file may make it do.
    """

    status: int
    seconds: float
    size: int
    stdout: str
    stderr: str
    acts: list[str]

    def faults(self, statuses: Container[int]) -> list[str]:
        """Return what is wrong with the outcome, a sentence each.

        statuses: those that are right.
        """
        sentences = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        faults = {
            f"it did {self.acts}": bool(self.acts),
            "it shows a traceback": "Traceback" in self.stdout + self.stderr,
            f"its exit status is {self.status}": self.status not in statuses,
            "it gives no reason": self.status != 0 and not sentences,
            f"it says {len(sentences)} sentences": len(sentences) > MAX_SENTENCES,
            "its sentences are no single lines": self.status != 0 and len(self.stderr.splitlines()) != len(sentences),
            "its sentences cannot be printed": not all(line.isprintable() for line in self.stderr.splitlines()),
            f"it took {self.seconds:.0f} s": self.seconds > MAX_SECONDS,
            f"it took {self.size / 2**20:.0f} MiB": self.size > MAX_BYTES,
        }
        return [fault for fault, is_fault in faults.items() if is_fault]


def tables() -> list[ModuleType]:
    """Return the tables of files that commands read, all modules beside this one that have some; tests of readers have others."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if not path.stem.startswith("test_"))
    modules = [importlib.import_module(f"tests.hostile.{name}") for name in names if name != Path(__file__).stem]
    return [module for module in modules if hasattr(module, "FILES") and hasattr(module, "commands")]


def statuses_of(table: ModuleType, name: str) -> Container[int]:
    """Return the exit statuses that are right for commands that read a file."""
    if name in getattr(table, "GOOD", ()):
        return (0,)
    return (0, 1) if name in getattr(table, "HARMLESS", ()) else (1,)


class Zygote:
    """A process that has imported the program and forks a child for each command."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.harness"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str], folder: Path) -> Outcome:
        """Run an entry script with arguments in a folder, in which alone it may write."""
        self._process.stdin.write(json.dumps([command, str(folder)]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        texts = [(folder / name).read_text(errors="surrogateescape") for name in ("stdout", "stderr", "acts")]
        for name in ("stdout", "stderr", "acts"):
            (folder / name).unlink()
        return Outcome(*answer, *texts[:2], texts[2].splitlines())

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.stdin.close()


def serve() -> None:
    """Fork a child for each line of standard input; answer with its exit status, its seconds and its peak bytes."""
    for name in PRELOADED:
        importlib.import_module(name)
    Plugins.instance()  # which Hydra looks for and imports once a process
    own_size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for line in sys.stdin:
        command, folder = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(command, Path(folder), own_size + ADDRESS_SPACE)
        print(json.dumps(_wait(child, start)), flush=True)


def _wait(child: int, start: float) -> tuple[int, float, int]:
    """Wait for a child, and kill it when its time is over."""
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), time.monotonic() - start, usage.ru_maxrss * 1024
        if time.monotonic() - start > MAX_SECONDS + 1:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _become(command: list[str], folder: Path, address_space: int) -> None:
    """Run a script in this process as it is started by a user; never return."""
    os.chdir(folder)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = [str(ROOT / command[0]), *command[1:]]
    status = 1
    imported = set(sys.modules)
    acts = os.open("acts", os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(lambda event, arguments: _watch(event, arguments, folder, acts))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for name in set(sys.modules) - imported:
            file = getattr(sys.modules[name], "__file__", None)
            if file and not Path(file).resolve().is_relative_to(ROOT) and not file.startswith((sys.prefix, sys.base_prefix)):
                os.write(acts, f"import {name} from {file}\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(event: str, arguments: tuple, folder: Path, acts: int) -> None:
    """Note an act that no file may cause: a process, a connection, a change outside the folder."""
    if event in STARTS or event in CONNECTIONS:
        os.write(acts, f"{event} {arguments!r}\n".encode(errors="replace"))
        return
    is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if not is_write and event not in CHANGES:
        return
    for path in arguments[:1] if is_write else arguments[:2]:
        if isinstance(path, str | bytes) and not _is_own(os.fsdecode(path), folder):
            os.write(acts, f"{event} {path!r}\n".encode())


def _is_own(path: str, folder: Path) -> bool:
    """Whether a path is a folder or below it, links followed, or is the device that swallows everything."""
    return Path(path).resolve().is_relative_to(folder.resolve()) or path == os.devnull


if __name__ == "__main__":
    serve()
