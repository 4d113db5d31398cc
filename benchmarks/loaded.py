"""How many times longer programs take beside a busy process on each core, by how OpenMP's threads wait.

    python -m benchmarks.loaded                        scoring, fine-tuning and merging; about ten minutes on two cores
    python -m benchmarks.loaded --only scoring

Two processes on a core have half of it each: about 2 is the least possible. The programs are run on the bundled demo,
which is fine-tuned on one task first, and on random ViT-B-32 encoders.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser_of
from command_line.config import ROOT
from src.runtime.openmp import SPIN_COUNT

FINETUNE = [str(ROOT / "finetune.py"), "--train-dataset=Digits"]
COMMANDS = {
    "scoring": [str(ROOT / "main.py"), "DATASETS=[Digits]", "n_eval_points=4"],
    "fine-tuning": [*FINETUNE, "epochs=1", "model_location=again"],
    "merging": ["-m", "benchmarks.merge", "--case", "ties k=20"],
}
RESULTS = ("cache", "again")  # of a command in its folder: without them it is done anew
WAITS = {
    f"{SPIN_COUNT} spins (the program's)": {},
    "OpenMP's default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Return how long a command takes, with its earlier results removed."""
    for result in RESULTS:
        shutil.rmtree(folder / result, ignore_errors=True)
    cwd = ROOT if command[0] == "-m" else folder
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", choices=COMMANDS, help="only this program")
    parser.add_argument("--turns", type=int, default=2, help="runs of each; the shortest is shown")
    options = parser.parse_args()
    table = Table(title=f"seconds, the shortest of {options.turns}")
    for heading in ("threads wait by", "command", "alone", "beside busy cores", "ratio"):
        table.add_column(heading, justify="left" if heading in ("threads wait by", "command") else "right")
    unset = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, *FINETUNE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for command in [options.only] if options.only else COMMANDS:
            for wait, settings in WAITS.items():
                run = COMMANDS[command], folder, {**unset, **settings}
                alone = min(seconds(*run) for _ in range(options.turns))
                with busy_cores():
                    loaded = min(seconds(*run) for _ in range(options.turns))
                table.add_row(wait, command, f"{alone:.1f}", f"{loaded:.1f}", f"{loaded / alone:.1f}")
                Console(stderr=True).print(f"{command}, {wait}: {alone:.1f} and {loaded:.1f} s", highlight=False)
    Console().print(table)


if __name__ == "__main__":
    main()
