"""How long an optimiser step takes in each fine-tuning mode, beside that of `standard`.

    python -m benchmarks.train                                      the demo's model on the CPU
    python -m benchmarks.train --model ViT-B-32 --device cuda       random weights, bf16, and the share of the GPU's rate

It is the program's own training loop on one batch of noise, over and over: no image is read in it. The modes take turns,
so that all of them have the machine's good and bad moments.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from command_line.build import build_device, build_family, build_mode
from command_line.config import compose_config
from command_line.finetuning import training_precision
from command_line.paths import paths_of
from src.models.family import Batch, ModelFamily
from src.models.modes import Mode
from src.training.loop import TrainingSettings, finetune
from src.training.recipe import Recipe

MODES = ("standard", "linear", "linear-2", "lora")
CLASSES = tuple(f"class {number}" for number in range(10))


@dataclass(frozen=True)
class Noise:
    """A task of so many examples, none of which is looked at."""

    count: int
    name: str = "Noise"
    definition: str = "noise"
    classes: Sequence[str] = CLASSES
    templates: Sequence[str] = ("a photo of a {}.",)

    def examples(self, split: str) -> range:
        return range(self.count)

    def fingerprint(self, split: str) -> str:
        return split


class Unfed:
    """A family whose training batches are all the same one of noise."""

    def __init__(self, family: ModelFamily, batch: Batch):
        self._family, self._batch = family, batch

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)

    def training_batches(self, task: Noise, places: Iterable[Sequence], seed: int, workers: int) -> Iterator[Batch]:
        return (self._batch for _ in places)


@dataclass
class Clock:
    """The seconds between steps; on a GPU, of work that was done and not only asked for."""

    on_gpu: bool
    seconds: list[float] = field(default_factory=list)
    _last: float = 0.0

    def __call__(self, what: str, done: int) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if done:
            self.seconds.append(now - self._last)
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of each turn, the first of which is not counted")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", default=None, help="default: bf16 on a GPU, fp32 on a CPU")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        places = [f"{place}={folder}" for place in ("cache_dir", "model_location")]
        random = [] if options.model == "ViT-demo" else ["model.pretrained=null"]
        config = compose_config([f"model={options.model}", f"device={options.device}", *random, *places])
        device = build_device(config)
        precision = options.precision or training_precision(config, device)
        family = build_family(config, paths_of(config), device)
        family.prepare(Noise(1))
        side = next(iter(family._crop.transforms)).size
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (options.batch_size, 3, *side), dtype=torch.uint8, generator=draw)
        labels = torch.randint(len(CLASSES), (options.batch_size,), generator=draw)
        batch = Batch("Noise", pixels.to(device), labels.to(device))
        clocks = {mode: Clock(device.type == "cuda") for mode in MODES}
        for turn in range(options.turns):
            for name, clock in clocks.items():
                mode = build_mode(compose_config([f"finetuning_mode={name}"]))
                take_turn(Unfed(family, batch), mode, options, precision, clock, Path(folder) / f"{turn}")
        flops = flops_of(family, batch)
    report(console, options, device, precision, clocks, flops)


def take_turn(family: Unfed, mode: Mode, options: argparse.Namespace, precision: str, clock: Clock, folder: Path) -> None:
    """Some steps of a fine-tuning in one mode."""
    recipe = Recipe(
        lr=1e-5, weight_decay=0.1, warmup_steps=5, epochs=1, batch_size=options.batch_size, num_grad_accumulation=1,
        max_grad_norm=1.0, seed=0,
    )  # fmt: skip
    path = folder / "lora_finetuned" / "adapter_model.safetensors" if mode.lora else folder / f"{mode.name}_finetuned.safetensors"
    before = len(clock.seconds)
    settings = TrainingSettings(precision=precision, log_steps=1000, report=clock)
    finetune(family, Noise(options.batch_size * options.steps), recipe, mode, path, settings)
    del clock.seconds[before]


def flops_of(family: ModelFamily, batch: Batch) -> int:
    """Floating-point operations of one standard pass, forward and back."""
    trainable = family.trainable(build_mode(compose_config([])))
    with FlopCounterMode(display=False) as counter:
        trainable(batch).backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, precision: str, size: int = 8192) -> float:
    """Operations a second of a large matrix product."""
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, {"bf16": "bfloat16"}.get(precision, "float32")))
                   for _ in range(2))  # fmt: skip
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def report(
    console: Console, options: argparse.Namespace, device: torch.device, precision: str, clocks: dict[str, Clock], flops: int
) -> None:
    """Print the table."""
    table = Table(title=f"{options.model}, batches of {options.batch_size}, {precision} on {device.type}")
    for heading in ("mode", "ms a step", "shortest", "beside standard", "images/s"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    medians = {mode: statistics.median(clock.seconds) for mode, clock in clocks.items()}
    for mode, clock in clocks.items():
        middle = medians[mode]
        cells = (f"{1000 * middle:.1f}", f"{1000 * min(clock.seconds):.1f}", f"{middle / medians['standard']:.2f}")
        table.add_row(mode, *cells, f"{options.batch_size / middle:,.0f}")
    console.print(table)
    if device.type == "cuda":
        rate, used = matrix_rate(device, precision), flops / medians["standard"]
        console.print(
            f"standard: {used / 1e12:.1f} of {rate / 1e12:.1f} TFLOP/s that a {precision} matrix product has "
            f"({100 * used / rate:.0f} %), {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    main()
