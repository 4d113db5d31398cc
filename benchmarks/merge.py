"""Seconds and peak memory of merging, beside this machine's own floors.

    python -m benchmarks.merge                   8 ViT-B-32 encoders
    python -m benchmarks.merge --tasks 20
    python -m benchmarks.merge --sharded         3 sharded bfloat16 decoders, streamed to disk
    python -m benchmarks.merge --device cuda     also compares with the CPU's result
    python -m benchmarks.merge --only TSVM,TSVC  these methods

Methods that decompose matrices stand beside the time that a full singular value decomposition of every changed matrix
of every task takes on this machine: one of each shape is measured (the shortest of three), and
multiplied by how many there are.

Each figure is of a process of its own; memory is the peak of RssAnon above what importing took (see memory.py).
Inputs are random, of real shapes, made on first use under cache/benchmarks.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import FOLDER, clip_encoders, sharded_language_models
from benchmarks.memory import Peak
from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.bundles import save_bundle
from src.checkpoints.mask_files import MaskProvenance, open_masks, save_masks
from src.checkpoints.opening import open_all, open_checkpoint
from src.checkpoints.writing import save_file, save_folder
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method
from src.models.layers import depth_by_name, is_layer_by_name
from src.state_dict import add_vector
from src.task_vectors import TaskVector

CASES = {
    "sum": ["method=sum"],
    "sum + LiNeS": ["method=sum", "method.apply_lines=True"],
    "ties k=20": ["method=ties"],
    "tall_mask, 5 lambdas": ["method=tall_mask"],
    "consensus, masks given": ["method=consensus"],
    "TSVM": ["method=TSVM"],
    "TSVM_2": ["method=TSVM_2"],
    "TSVC": ["method=TSVC"],
    "iso_c": ["method=iso_c"],
    "iso_cts": ["method=iso_cts"],
}


def opened(paths: list[Path], device: str) -> MergeInputs:
    pretrained, finetuned = open_checkpoint(paths[0]), open_all({path.stem: path for path in paths[1:]})
    return MergeInputs(pretrained, finetuned, depth_by_name(pretrained), is_layer_by_name, torch.device(device), keep=False)


def method_of(case: str) -> Method:
    return build_method(compose_config(CASES[case]))


def family_of(case: str, inputs: MergeInputs) -> MergeFamily:
    method = method_of(case)
    if method.mask_method:
        method = method.with_masks(open_masks(_masks(inputs), _made_of(inputs), inputs.outline).masks)
    return method(inputs)


def measure(case: str, paths: list[Path], device: str, save: bool, sharded: bool) -> dict[str, float]:
    """Merge in this process, the page cache warm; without saving, what the merge is stored as is computed and held."""
    torch.empty(1, device=device)
    method = method_of(case)  # what composing imports is not counted
    if method.mask_method:
        _masks(opened(paths, "cpu"))
    grid = method.coefficients(len(paths) - 1)
    coefficient = grid[len(grid) // 2]
    read_all(paths)  # the page cache is warm, and stays so only for a while
    with Peak() as peak:
        started = time.perf_counter()
        inputs = opened(paths, device)
        family = family_of(case, inputs)
        if method.per_task:
            compact = family.compact(dict.fromkeys(inputs.tasks, coefficient))
            if save:
                save_bundle(compact, inputs.pretrained, FOLDER / "bundle", {"finetuned": dict.fromkeys(inputs.tasks, "")})
            else:
                held = [*compact.shared.values(), *compact.flattened().values()]
        else:
            vector = next(iter(family(coefficient).values()))
            if sharded:
                save_folder(add_vector(inputs.pretrained, vector), FOLDER / "merged", inputs.pretrained)
            elif save:
                save_file(add_vector(inputs.pretrained, vector), FOLDER / "merged.safetensors")
            else:
                held = [vector[key] for key in vector if inputs.changed(key)]
        if device != "cpu" and not save:
            held[0].sum().item()  # waits for the device
        seconds = time.perf_counter() - started
    found = {"seconds": seconds, "bytes": peak.above}
    if device != "cpu":
        vector, reference = (next(iter(family_of(case, opened(paths, where))(coefficient).values())) for where in (device, "cpu"))
        moved = TaskVector.of({key: vector[key].cpu() for key in vector})
        found["difference"] = (moved - reference).norm() / reference.norm()
    return found


def full_decompositions(paths: list[Path], device: str) -> dict[str, float]:
    """Seconds that full singular value decompositions of every changed matrix of every task would take."""
    inputs = opened(paths, device)
    shapes = Counter(leaf.shape for key, leaf in inputs.outline.items() if inputs.is_matrix(key) and inputs.changed(key))
    seconds = 0.0
    for shape, count in shapes.items():
        matrix, took = torch.randn(shape, device=device), []
        for _ in range(3):
            matrix.sum().item()  # waits for the device
            started = time.perf_counter()
            torch.linalg.svd(matrix, full_matrices=False).S.sum().item()
            took.append(time.perf_counter() - started)
        seconds += min(took) * count * len(inputs.tasks)
    return {"seconds": seconds, "matrices": len(inputs.tasks) * shapes.total()}


def _made_of(inputs: MergeInputs) -> MaskProvenance:
    return MaskProvenance({}, "", dict.fromkeys(inputs.tasks, ""))


def _masks(inputs: MergeInputs) -> Path:
    """TALL masks of these models, lambda 0.4, made once."""
    found = sorted((FOLDER / "masks").glob(f"tall_mask_{len(inputs.tasks)}task_*.safetensors"))
    if found:
        return found[0]
    lambdas = dict.fromkeys(inputs.tasks, 0.4)
    method = build_method(compose_config(["method=tall_mask", "specify_lambda=0.4"]))
    return save_masks(method(inputs).compact(lambdas), FOLDER / "masks", _made_of(inputs), lambdas, None)


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
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CASES)} (or how they begin)")
    parser.add_argument("--case", choices=(*CASES, "floors", "svd"), help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        paths = sharded_language_models(3) if options.sharded else _flat(clip_encoders(options.tasks))
        if options.case == "floors":
            figures = floors(paths)
        elif options.case == "svd":
            figures = full_decompositions(paths, options.device)
        else:
            figures = measure(options.case, paths, options.device, options.save, options.sharded)
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
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    cases = [case for case in CASES if case.startswith(wanted) and not (options.sharded and method_of(case).per_task)]
    fastest = {}
    for case in cases:
        runs = [[*common, "--case", case, "--save"]]
        if not options.sharded:
            runs.insert(0, [*common, "--case", case])
        repeats = [[child(run) for _ in range(options.repeat)] for run in runs]
        fastest[case] = min(figures["seconds"] for figures in repeats[0])
        cells = [
            f"{value:.2f}"
            for figures in repeats
            for value in (min(f["seconds"] for f in figures), max(f["bytes"] for f in figures) / 2**30)
        ]
        if options.device != "cpu":
            console.print(f"{case}: relative difference from the CPU {repeats[0][0]['difference']:.1e}", highlight=False)
        table.add_row(case, *(["-", "-"] if options.sharded else []), *cells)
    console.print(table)
    singular = [case for case in cases if method_of(case).decomposes]
    if singular and not options.sharded:
        plain = child([*common, "--case", "svd"])
        told = f"{plain['matrices']:.0f} plain full singular value decompositions take {plain['seconds']:.1f} s on this machine"
        console.print(told, highlight=False)
        for case in singular:
            console.print(f"{case}: {plain['seconds'] / fastest[case]:.1f} times as fast as those", highlight=False)


def _flat(encoders: tuple[Path, list[Path]]) -> list[Path]:
    return [encoders[0], *encoders[1]]


if __name__ == "__main__":
    main()
