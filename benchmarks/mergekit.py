"""Merging from disk to disk as users type it, beside mergekit's command on the same files, in turns.

    python -m venv OTHER && OTHER/bin/pip install mergekit==0.1.5
    python -m benchmarks.mergekit --command OTHER/bin/mergekit-pytorch

Whole processes, the page cache warm: 8 random ViT-B-32 encoders, coefficient 0.3. Memory is the peak of RssAnon.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import clip_encoders
from benchmarks.machine import parser_of
from benchmarks.memory import anonymous
from command_line.config import ROOT

METHODS = {  # our options, mergekit's method, and mergekit's parameters of each model
    "sum": (["method=sum"], "task_arithmetic", {"weight": 0.3}),
    "TIES, k = 20": (["method=ties", "method.k=20"], "ties", {"weight": 0.3, "density": 0.2}),
}


def our_command(options: list[str], pretrained: Path, finetuned: list[Path], output: Path) -> list[str]:
    """Return the command of a merge by this program."""
    files = [f"pretrained={pretrained}", f"finetuned=[{','.join(map(str, finetuned))}]", f"output={output}"]
    return [sys.executable, str(ROOT / "main.py"), "model=files", *files, "specify_lambda=0.3", *options]


def their_settings(method: str, parameters: dict[str, float], pretrained: Path, finetuned: list[Path]) -> dict:
    """Return mergekit's settings for the same merge."""
    return {
        "merge_method": method,
        "base_model": str(pretrained),
        "dtype": "float32",
        "parameters": {"normalize": False},
        "models": [{"model": str(path), "parameters": parameters} for path in finetuned],
    }


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak GiB of a command, run in a folder."""
    started, peak = time.perf_counter(), 0
    with open(folder / "log", "w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.01)
    if process.returncode:
        sys.exit((folder / "log").read_text())
    return time.perf_counter() - started, peak / 2**30


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--command", required=True, help="mergekit-pytorch of an environment that has it")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    command = shutil.which(options.command) or sys.exit(f"{options.command} is no command")
    pretrained, finetuned = clip_encoders(8)
    pretrained, finetuned = pretrained.resolve(), [path.resolve() for path in finetuned]
    table = Table(title=f"8 ViT-B-32 encoders from disk to disk, the shortest of {options.turns}")
    for heading in ("method", "seconds", "GiB", "mergekit's seconds", "GiB", "ratio"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, (ours, theirs, parameters) in METHODS.items():
            (folder / "settings.yaml").write_text(yaml.safe_dump(their_settings(theirs, parameters, pretrained, finetuned)))
            figures: list[list[tuple[float, float]]] = [[], []]
            for _ in range(options.turns):
                figures[0].append(measure(our_command(ours, pretrained, finetuned, folder / "merged.safetensors"), folder))
                figures[1].append(measure([command, str(folder / "settings.yaml"), str(folder / "theirs")], folder))
            (seconds, memory), (their_seconds, their_memory) = (min(runs) for runs in figures)
            cells = (f"{seconds:.1f}", f"{memory:.2f}", f"{their_seconds:.1f}", f"{their_memory:.2f}")
            table.add_row(method, *cells, f"{seconds / their_seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
