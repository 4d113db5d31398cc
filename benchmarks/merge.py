"""Seconds and peak memory of merging, beside this machine's own floors.

    python -m benchmarks.merge                   8 ViT-B-32 encoders
    python -m benchmarks.merge --tasks 20
    python -m benchmarks.merge --sharded         3 sharded bfloat16 decoders, streamed to disk
    python -m benchmarks.merge --device cuda     also compares with the CPU's result

Each figure is of a process of its own; memory is the peak of RssAnon above what importing took (see memory.py).
Inputs are random, of real shapes, made on first use under cache/benchmarks.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import FOLDER, clip_encoders, sharded_language_models
from benchmarks.memory import Peak
from src.checkpoints import open_all, open_checkpoint
from src.merging.ingredients import Ingredients
from src.merging.method import Method
from src.models.blocks import depth_by_name
from src.saving import save_file, save_folder
from src.state_dict import added
from src.task_vectors import TaskVector

CASES = {"sum": "sum", "sum + LiNeS": "sum", "ties k=20": "ties"}


def method_of(case: str) -> Method:
    fields = OmegaConf.load(f"config/method/{CASES[case]}.yaml")
    method = instantiate(fields, _convert_="all")
    return method.by_depth() if "LiNeS" in case else method


def measure(case: str, paths: list[Path], device: str, save: bool, sharded: bool) -> dict[str, float]:
    """Merge in this process, the page cache warm; without saving, the merged vector is computed and held in memory."""
    method = method_of(case)
    torch.empty(1, device=device)
    read_all(paths)  # the page cache is warm, and stays so only for a while
    with Peak() as peak:
        started = time.perf_counter()
        pretrained, finetuned = open_checkpoint(paths[0]), open_all({path.stem: path for path in paths[1:]})
        given = Ingredients(pretrained, finetuned, depth_by_name(pretrained), torch.device(device), keep=False)
        vector = next(iter(method(given)(0.3).values()))
        if sharded:
            save_folder(added(pretrained, vector), FOLDER / "merged", pretrained)
        elif save:
            save_file(added(pretrained, vector), FOLDER / "merged.safetensors")
        else:
            held = [vector[key] for key in vector if given.changed(key)]
            if device != "cpu":
                held[0].sum().item()  # waits for the device
        seconds = time.perf_counter() - started
    found = {"seconds": seconds, "bytes": peak.above}
    if device != "cpu":
        there = Ingredients(pretrained, finetuned, given.depth, torch.device("cpu"), keep=False)
        reference = next(iter(method(there)(0.3).values()))
        moved = TaskVector.of({key: vector[key].cpu() for key in vector})
        found["difference"] = (moved - reference).norm() / reference.norm()
    return found


def floors(paths: list[Path]) -> dict[str, float]:
    """What no merge of these files can beat on this machine: reading every byte, writing fresh and warm memory."""
    read_all(paths)
    started = time.perf_counter()
    total = read_all(paths)
    reading = time.perf_counter() - started
    size = 2**28
    started = time.perf_counter()
    fresh = torch.ones(size // 4)
    writing = time.perf_counter() - started
    started = time.perf_counter()
    fresh.fill_(2)
    return {
        "GB of input": total / 1e9,
        "seconds to read it through mmap": reading,
        "GB/s into fresh memory": size / writing / 1e9,
        "GB/s into warm memory": size / (time.perf_counter() - started) / 1e9,
    }


def read_all(paths: list[Path]) -> int:
    """Touch every byte through mmap, as a merge does; returns how many there are."""
    total = 0
    for checkpoint in (open_checkpoint(path) for path in paths):
        for leaf in checkpoint.values():
            leaf.sum()
            total += leaf.numel() * leaf.element_size()
    return total


def child(arguments: list[str]) -> dict[str, float]:
    run = subprocess.run([sys.executable, "-m", "benchmarks.merge", *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--repeat", type=int, default=3, help="the shortest time of so many runs, and the highest peak")
    parser.add_argument("--case", choices=(*CASES, "floors"), help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        paths = sharded_language_models(3) if options.sharded else _flat(clip_encoders(options.tasks))
        figures = floors(paths) if options.case == "floors" else measure(
            options.case, paths, options.device, options.save, options.sharded)  # fmt: skip
        print(json.dumps(figures))
        return
    paths = sharded_language_models(3) if options.sharded else _flat(clip_encoders(options.tasks))
    common = ["--tasks", str(options.tasks), "--device", options.device] + ["--sharded"] * options.sharded
    console = Console()
    for name, figure in child([*common, "--case", "floors"]).items():
        console.print(f"{name}: {figure:.2f}", highlight=False)
    table = Table(title=f"merging {len(paths) - 1} models on {options.device}, {torch.get_num_threads()} threads")
    for column in ("method", "seconds", "peak GiB", "seconds with saving", "peak GiB with saving"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for case in CASES:
        runs = [[*common, "--case", case, "--save"]]
        if not options.sharded:
            runs.insert(0, [*common, "--case", case])
        repeats = [[child(run) for _ in range(options.repeat)] for run in runs]
        cells = [
            f"{value:.2f}"
            for figures in repeats
            for value in (min(f["seconds"] for f in figures), max(f["bytes"] for f in figures) / 2**30)
        ]
        if options.device != "cpu":
            console.print(f"{case}: relative difference from the CPU {repeats[0][0]['difference']:.1e}", highlight=False)
        table.add_row(case, *(["-", "-"] if options.sharded else []), *cells)
    console.print(table)


def _flat(encoders: tuple[Path, list[Path]]) -> list[Path]:
    return [encoders[0], *encoders[1]]


if __name__ == "__main__":
    main()
