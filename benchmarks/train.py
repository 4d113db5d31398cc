"""How long an optimiser step takes in each fine-tuning mode, beside that of `standard`.

    python -m benchmarks.train                                      the demo's model on the CPU
    python -m benchmarks.train --model ViT-B-32 --device cuda       random weights, bf16, and the share of the GPU's rate

It is the program's own training loop on one batch of noise, over and over: no image is read. The modes take turns, so
that other load on the machine affects all of them alike.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import matrix_rate, parser_of
from benchmarks.noise import MODES, noise_batch, random_family, time_steps, training_flops
from command_line.build import build_device
from command_line.config import compose_config


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="ViT-demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of each turn, the first of which is not counted")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", default=None, help="default: bf16 on a GPU, fp32 on a CPU")
    options = parser.parse_args()
    device, console = build_device(compose_config([f"device={options.device}"])), Console()
    precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    with tempfile.TemporaryDirectory() as folder:
        family = random_family(options.model, device, Path(folder))
        batch = noise_batch(family, options.batch_size)
        seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        for turn in range(options.turns):
            for mode in MODES:
                seconds[mode] += time_steps(family, mode, batch, options.steps, precision, Path(folder) / f"{turn}")
        flops = training_flops(family, batch)
    table = Table(title=f"{options.model}, batches of {options.batch_size}, {precision} on {device.type}")
    for heading in ("mode", "ms a step", "shortest", "beside standard", "images/s"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    medians = {mode: statistics.median(times) for mode, times in seconds.items()}
    for mode, times in seconds.items():
        median = medians[mode]
        cells = (f"{1000 * median:.1f}", f"{1000 * min(times):.1f}", f"{median / medians['standard']:.2f}")
        table.add_row(mode, *cells, f"{options.batch_size / median:,.0f}")
    console.print(table)
    if device.type == "cuda":
        rate, used = matrix_rate(device, precision), flops / medians["standard"]
        console.print(
            f"standard: {used / 1e12:.1f} of {rate / 1e12:.1f} TFLOP/s that a {precision} matrix product has "
            f"({100 * used / rate:.0f} %), {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    main()
