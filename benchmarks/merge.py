"""Seconds and peak memory of merging, beside this machine's rates of reading and writing.

    python -m benchmarks.merge                   8 ViT-B-32 encoders
    python -m benchmarks.merge --tasks 20
    python -m benchmarks.merge --sharded         3 sharded bfloat16 decoders, streamed to disk
    python -m benchmarks.merge --device cuda     also compares with the CPU's result
    python -m benchmarks.merge --only TSVM,TSVC  these methods

A row is printed when it is measured: the merged vector, computed and held; what one more candidate of a search costs
(`pretrained + family(coefficient)`, each a model in memory, the shortest of the grid's first ones); and the merge streamed
to disk. Methods that give each task its own model have no candidates here: their compact form is computed and held.

Methods that decompose matrices stand beside the time that a full singular value decomposition of every changed matrix
of every task takes on this machine: one of each shape is measured (the shortest of three), and multiplied by how many
there are.

Each figure is of a process of its own; memory is the peak of RssAnon above what importing took (see memory.py).
Inputs are random, of real shapes, made on first use under cache/benchmarks.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inputs import FOLDER, clip_encoders, sharded_language_models, statistic_files
from benchmarks.machine import wait_for
from benchmarks.memory import Peak
from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.bundles import save_bundle
from src.checkpoints.mask_files import MaskProvenance, open_masks, save_masks
from src.checkpoints.opening import open_all, open_checkpoint
from src.checkpoints.writing import save_file, save_folder
from src.elementwise import add_vector
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method
from src.models.layers import depth_by_name, is_layer_by_name
from src.runtime.memory import keep_freed_memory
from src.state_dict import vector_outline
from src.statistics.files import StatisticFile
from src.task_vectors import TaskVector

CASES = {
    "sum": ["method=sum"],
    "sum + LiNeS": ["method=sum", "method.apply_lines=True"],
    "sum + SVC": ["method=sum", "method.apply_svc=True"],
    "TSVM + SVC": ["method=TSVM", "method.apply_svc=True"],
    "ties k=20": ["method=ties"],
    "magmax": ["method=magmax"],
    "model_stock": ["method=model_stock"],
    "pcb": ["method=pcb"],
    "dare": ["method=dare"],
    "dare, then ties": ["method=dare", "method@method.base=ties"],
    "breadcrumbs": ["method=breadcrumbs"],
    "della": ["method=della"],
    "tall_mask, 5 lambdas": ["method=tall_mask"],
    "emr": ["method=emr"],
    "consensus, masks given": ["method=consensus"],
    "TSVM": ["method=TSVM"],
    "TSVM_2": ["method=TSVM_2"],
    "TSVC": ["method=TSVC"],
    "iso_c": ["method=iso_c"],
    "iso_cts": ["method=iso_cts"],
    "actmat": ["method=actmat"],
    "tact": ["method=tact"],
    "wudi": ["method=wudi"],
    "iwudi": ["method=iwudi"],
    "swudi": ["method=swudi"],
    "aswudi": ["method=aswudi"],
    "dc_merge": ["method=dc_merge"],
    "cart": ["method=cart"],
    "star": ["method=star"],
    "subspace_boosting": ["method=subspace_boosting"],
    "fisher": ["method=fisher"],
    "regmean": ["method=regmean", "method.off_diagonal=1"],
    "cg kfac, 10 iterations": ["method=cg", "method.iterations=10", "method.tolerance=0", "method.off_diagonal=1"],
}
COLUMNS = ("method", "seconds", "peak GiB", "candidate s", "candidate MB", "streamed s", "peak GiB")
CANDIDATES = 5
CPU = torch.device("cpu")
Figures = dict[str, float]


def open_inputs(paths: list[Path], device: torch.device, keep: bool = False, needs: Sequence[str] = ()) -> MergeInputs:
    """Open the pre-trained model, the first of `paths`, the fine-tuned ones, and the kinds of statistics in `needs`."""
    pretrained, finetuned = open_checkpoint(paths[0]), open_all({path.stem: path for path in paths[1:]})
    shapes = vector_outline(pretrained)
    files = {kind: zip(finetuned, statistic_files(kind, paths[1:], shapes)) for kind in needs}
    statistics = {kind: {task: StatisticFile(file, shapes) for task, file in pairs} for kind, pairs in files.items()}
    return MergeInputs(pretrained, finetuned, depth_by_name(pretrained), is_layer_by_name, device, keep, statistics)


def method_of(case: str) -> Method:
    """Build the method of one of `CASES`."""
    return build_method(compose_config(CASES[case]))


def merge(case: str, inputs: MergeInputs) -> MergeFamily:
    """Return the merges of a case, by coefficient; masks that it needs are read from a file."""
    method = method_of(case)
    if method.mask_method:
        method = method.with_masks(open_masks(_masks(inputs), _provenance(inputs), inputs.outline).masks)
    return method(inputs)


def hold(method: Method, family: MergeFamily, tasks: Sequence[str], coefficient: float) -> list[Tensor]:
    """Compute and return what a search keeps: the merged vector, or the tasks' models in compact form."""
    if method.per_task:
        compact = family.compact(dict.fromkeys(tasks, coefficient))
        return [*compact.shared.values(), *compact.flattened().values()]
    return list(next(iter(family(1.0).values())).values())


def measure_merge(case: str, paths: list[Path], device: torch.device) -> Figures:
    """Return the seconds and bytes of merging in this process, the page cache warm, and holding the result."""
    method, coefficient = _warmed_up(case, paths, device)
    with Peak() as peak:
        started = time.perf_counter()
        inputs = open_inputs(paths, device, keep=True, needs=method.needs)
        merges = merge(case, inputs)
        held = hold(method, merges, inputs.tasks, coefficient)
        wait_for(device)
        seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "bytes": peak.above}
    if not method.per_task:
        del held
        figures |= measure_candidates(method, merges, inputs, device)
    if device.type != "cpu":
        figures["difference"] = _difference(case, paths, device, coefficient)
    return figures


def measure_candidates(method: Method, merges: MergeFamily, inputs: MergeInputs, device: torch.device) -> Figures:
    """Return the seconds and bytes of making candidates as a search does, one at a time."""
    keep_freed_memory()  # as a scored run does
    grid, times = method.coefficients(len(inputs.tasks))[:CANDIDATES], []
    with Peak() as peak:
        for coefficient in [grid[0], *grid]:  # the first one warms the memory up
            started = time.perf_counter()
            candidate = dict(add_vector(inputs.pretrained, next(iter(merges(coefficient).values()))))
            wait_for(device)
            times.append(time.perf_counter() - started)
            del candidate
    return {"candidate_seconds": min(times[1:]), "first_candidate_seconds": times[0], "candidate_bytes": peak.above}


def measure_stream(case: str, paths: list[Path], device: torch.device, sharded: bool) -> Figures:
    """Return the seconds and bytes of merging from disk to disk, an entry in memory at a time."""
    method, coefficient = _warmed_up(case, paths, device)
    with Peak() as peak:
        started = time.perf_counter()
        inputs = open_inputs(paths, device, needs=method.needs)
        merges = merge(case, inputs)
        if method.per_task:
            compact = merges.compact(dict.fromkeys(inputs.tasks, coefficient))
            save_bundle(compact, inputs.pretrained, FOLDER / "bundle", {"finetuned": dict.fromkeys(inputs.tasks, "")})
        else:
            model = add_vector(inputs.pretrained, next(iter(merges(coefficient).values())))
            if sharded:
                save_folder(model, FOLDER / "merged", inputs.pretrained)
            else:
                save_file(model, FOLDER / "merged.safetensors")
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak.above}


def _warmed_up(case: str, paths: list[Path], device: torch.device) -> tuple[Method, float]:
    """Return the method and a coefficient; what importing takes is not counted, and the page cache is warm for a while."""
    torch.empty(1, device=device)
    method = method_of(case)
    if method.mask_method:
        _masks(open_inputs(paths, CPU))
    grid = method.coefficients(len(paths) - 1)
    read_all(paths)
    return method, grid[len(grid) // 2]


def _difference(case: str, paths: list[Path], device: torch.device, coefficient: float) -> float:
    """Return the relative Frobenius distance between the vectors merged on a device and on the CPU."""
    inputs = (open_inputs(paths, where, needs=method_of(case).needs) for where in (device, CPU))
    vectors = [next(iter(merge(case, each)(coefficient).values())) for each in inputs]
    moved = TaskVector.of({key: vectors[0][key].cpu() for key in vectors[0]})
    return (moved - vectors[1]).norm() / vectors[1].norm()


def full_decompositions(inputs: MergeInputs) -> Figures:
    """Return the seconds that full singular value decompositions of every changed matrix of every task would take."""
    shapes = Counter(leaf.shape for key, leaf in inputs.outline.items() if inputs.is_matrix(key) and inputs.changed(key))
    seconds = 0.0
    for shape, count in shapes.items():
        matrix, times = torch.randn(shape, device=inputs.device), []
        for _ in range(3):
            wait_for(inputs.device)
            started = time.perf_counter()
            torch.linalg.svd(matrix, full_matrices=False)
            wait_for(inputs.device)
            times.append(time.perf_counter() - started)
        seconds += min(times) * count * len(inputs.tasks)
    return {"matrices": len(inputs.tasks) * shapes.total(), "seconds": seconds}


def _provenance(inputs: MergeInputs) -> MaskProvenance:
    return MaskProvenance({}, "", dict.fromkeys(inputs.tasks, ""))


def _masks(inputs: MergeInputs) -> Path:
    """Return TALL masks of these models, lambda 0.4, made once."""
    files = sorted((FOLDER / "masks").glob(f"tall_mask_{len(inputs.tasks)}task_*.safetensors"))
    if files:
        return files[0]
    lambdas = dict.fromkeys(inputs.tasks, 0.4)
    method = build_method(compose_config(["method=tall_mask", "specify_lambda=0.4"]))
    return save_masks(method(inputs).compact(lambdas), FOLDER / "masks", _provenance(inputs), lambdas, None)


def memory_rates(paths: list[Path]) -> Figures:
    """Return how fast this machine reads the files through mmap, and writes fresh and warm memory: no merge is faster."""
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
    """Read every byte through mmap, as a merge does; return how many there are."""
    total = 0
    for checkpoint in (open_checkpoint(path) for path in paths):
        for leaf in checkpoint.values():
            leaf.sum()
            total += leaf.numel() * leaf.element_size()
    return total


def in_process(arguments: list[str], repeat: int = 1) -> Figures:
    """Return the figures of a case, each run in a process of its own: the shortest times, the highest peaks."""
    runs = []
    for _ in range(repeat):
        run = subprocess.run([sys.executable, "-m", "benchmarks.merge", *arguments], check=True, stdout=subprocess.PIPE)
        runs.append(json.loads(run.stdout))
    return {key: (max if "bytes" in key else min)(run[key] for run in runs) for key in runs[0]}


def print_row(cells: tuple[str, ...]) -> None:
    """Print a line of the table."""
    name, *figures = cells
    print(f"{name:<24}" + "".join(f"{figure:>14}" for figure in figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--repeat", type=int, default=3, help="runs a case; the shortest time and the highest peak count")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(CASES)} (or the beginnings of these)")
    parser.add_argument("--case", choices=(*CASES, "rates", "svd"), help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    paths = sharded_language_models(3) if options.sharded else _flat(clip_encoders(options.tasks))
    if options.case:
        print(json.dumps(_figures(options, paths)))
        return
    common = ["--tasks", str(options.tasks), "--device", options.device] + ["--sharded"] * options.sharded
    print(f"merging {len(paths) - 1} models on {options.device}, {torch.get_num_threads()} threads")
    for name, figure in in_process([*common, "--case", "rates"]).items():
        print(f"{name}: {figure:.2f}")
    wanted = tuple(options.only.split(",")) if options.only else ("",)
    cases = [case for case in CASES if case.startswith(wanted) and not (options.sharded and method_of(case).per_task)]
    print_row(COLUMNS)
    shortest = {case: _row(case, common, options.repeat, options.sharded) for case in cases}
    decomposing = [case for case in cases if method_of(case).decomposes]
    if decomposing and not options.sharded:
        plain = in_process([*common, "--case", "svd"])
        print(f"{plain['matrices']:.0f} plain full singular value decompositions take {plain['seconds']:.1f} s on this machine")
        for case in decomposing:
            print(f"{case}: {plain['seconds'] / shortest[case]:.1f} times as fast as those")


def _row(case: str, common: list[str], repeat: int, sharded: bool) -> float:
    """Measure and print a row; return the seconds of the merge."""
    held = {} if sharded else in_process([*common, "--case", case], repeat)
    stream = in_process([*common, "--case", case, "--stream"], repeat)
    cells = [f"{held['seconds']:.2f}", f"{held['bytes'] / 2**30:.2f}"] if held else ["-", "-"]
    candidates = "candidate_seconds" in held
    cells += [f"{held['candidate_seconds']:.3f}", f"{held['candidate_bytes'] / 1e6:.0f}"] if candidates else ["-", "-"]
    print_row((case, *cells, f"{stream['seconds']:.2f}", f"{stream['bytes'] / 2**30:.2f}"))
    if "difference" in held:
        print(f"{case}: relative difference from the CPU {held['difference']:.1e}")
    return held.get("seconds", stream["seconds"])


def _figures(options: argparse.Namespace, paths: list[Path]) -> Figures:
    device = torch.device(options.device)
    if options.case == "rates":
        return memory_rates(paths)
    if options.case == "svd":
        return full_decompositions(open_inputs(paths, device))
    if options.stream:
        return measure_stream(options.case, paths, device, options.sharded)
    return measure_merge(options.case, paths, device)


def _flat(encoders: tuple[Path, list[Path]]) -> list[Path]:
    return [encoders[0], *encoders[1]]


if __name__ == "__main__":
    main()
