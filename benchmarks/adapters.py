"""Seconds and peak memory of merging adapters in the space of their factors, beside merging them as dense models.

    python -m benchmarks.adapters                      8 adapters of rank 16 of ViT-B-32's attention
    python -m benchmarks.adapters --tasks 20 --rank 4

Each row is of a process of its own, from opening the files to an adapter, or a model, on disk; memory is the peak of RssAnon
above what importing took (see memory.py). Adapters are random, made on first use under cache/benchmarks.
"""

import argparse
import json
import subprocess
import sys
import time

import torch

from benchmarks.inputs import FOLDER, clip_adapters
from benchmarks.memory import Peak
from benchmarks.merge import read_all
from merging import merge

CASES = {
    "TSVM, core, to an adapter": ("TSVM", {"space": "core"}, "adapter"),
    "TSVM, core, to a model": ("TSVM", {"space": "core"}, "model"),
    "TSVM, full, to a model": ("TSVM", {"space": "full"}, "model"),
    "iso_c, core, to an adapter": ("iso_c", {"space": "core"}, "adapter"),
    "ties, core, to an adapter": ("ties", {"space": "core"}, "adapter"),
    "ties, KnOTS, to an adapter": ("ties", {"space": "knots"}, "adapter"),
    "ties, full, to a model": ("ties", {"space": "full"}, "model"),
}
COLUMNS = f"{'case':<32}{'seconds':>10}{'peak GiB':>10}"


def measure(case: str, tasks: int, rank: int) -> dict[str, float]:
    """Return the seconds and bytes of a case in this process, the page cache warm."""
    pretrained, adapters = clip_adapters(tasks, rank=rank)
    read_all([pretrained])
    for folder in adapters:
        (folder / "adapter_model.safetensors").read_bytes()
    method, options, kind = CASES[case]
    output = FOLDER / ("merged_adapter" if kind == "adapter" else "merged.safetensors")
    torch.zeros(1)
    with Peak() as peak:
        started = time.perf_counter()
        merge(method, pretrained, adapters, coefficient=1.0, output=output, output_kind=kind, **options)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak.above}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3, help="runs a case; the shortest time and the highest peak count")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.tasks, options.rank)))
        return
    clip_adapters(options.tasks, rank=options.rank)
    print(COLUMNS)
    common = [sys.executable, "-m", "benchmarks.adapters", "--tasks", str(options.tasks), "--rank", str(options.rank)]
    for case in CASES:
        runs = [json.loads(subprocess.run([*common, "--case", case], check=True, stdout=subprocess.PIPE).stdout)
                for _ in range(options.repeat)]  # fmt: skip
        seconds, peak = min(run["seconds"] for run in runs), max(run["bytes"] for run in runs)
        print(f"{case:<32}{seconds:>10.2f}{peak / 2**30:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
