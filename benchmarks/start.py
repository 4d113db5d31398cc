"""Seconds from typing a command to its work: what a run imports, beside `import torch`.

    python -m benchmarks.start                the shortest of three runs of each command
    python -m benchmarks.start --modules 12   and the modules that take longest, by -X importtime

The inputs are three tiny state dicts, so that nothing but starting takes time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
FILES = ["model=files", "pretrained=base.safetensors", "finetuned=[a.safetensors,b.safetensors]", "output=merged.safetensors"]
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "main.py --help": [str(ROOT / "main.py"), "--help"],
    "merge of files, sum": [str(ROOT / "main.py"), *FILES, "method=sum", "specify_lambda=0.3"],
    "merge of files, TIES + LiNeS": [str(ROOT / "main.py"), *FILES, "method=ties", "method.apply_lines=True", "specify_lambda=1"],
    "merge of files, TSV-M": [str(ROOT / "main.py"), *FILES, "method=TSVM", "specify_lambda=1"],
}
TIMED = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| (\s*)(\S+)")


def make_inputs(folder: Path) -> None:
    """Write a base and two fine-tuned state dicts."""
    base = {f"layers.{block}.weight": torch.randn(8, 8) for block in range(4)}
    for name in ("base", "a", "b"):
        save_file({key: leaf + 0.1 * torch.randn(8, 8) for key, leaf in base.items()}, folder / f"{name}.safetensors")


def seconds(arguments: list[str], folder: Path) -> float:
    """Return how long a Python process with these arguments runs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def slowest(arguments: list[str], folder: Path, count: int) -> list[tuple[str, float]]:
    """Return the modules outside torch whose own code took longest to import, with their seconds."""
    run = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    own = {match[4]: int(match[1]) / 1e6 for match in TIMED.finditer(run.stderr) if not match[4].startswith("torch")}
    return sorted(own.items(), key=lambda item: -item[1])[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=0, help="how many of the slowest modules of each command to list")
    options = parser.parse_args()
    console = Console()
    table = Table(title="seconds to start, the shortest of three")
    for heading in ("command", "seconds", "above import torch"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        turns = [{command: seconds(arguments, folder) for command, arguments in COMMANDS.items()} for _ in range(3)]
        shortest = {command: min(turn[command] for turn in turns) for command in COMMANDS}
        for command, time_taken in shortest.items():
            table.add_row(command, f"{time_taken:.2f}", f"{time_taken - shortest['import torch']:+.2f}")
        console.print(table)
        for command, arguments in COMMANDS.items() if options.modules else ():
            modules = (f"{module} {1000 * own:.0f} ms" for module, own in slowest(arguments, folder, options.modules))
            console.print(f"{command}: {', '.join(modules)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
