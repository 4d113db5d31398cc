"""All checks that need a GPU, in one command of about eight minutes: correctness, then speed beside lower bounds.

    python -m benchmarks.gpu                         writes gpu.json and gpu.md under benchmarks/
    python -m benchmarks.gpu --out FOLDER --minutes 5   no row is begun after five minutes (default: seven)
    python -m benchmarks.gpu --device cpu --small    the same at small size, to try it where there is no GPU

Inputs are made on the device from a seed; nothing is downloaded. Rows that time does not allow are listed as skipped.

* device: the rates that this card reaches, of matrix products, of its memory and of the link to the host.
* tests: those marked gpu: each method on the GPU gives what it gives on the CPU, and so do predictions.
* merge: seconds and peak memory of each method on models that are on the device, the second time, beside a lower bound:
  reading each model and writing the vector once. `candidate` is one more model of a search; its lower bound is reading
  the pre-trained model and the vector and writing the sum. Masks that a method needs are made before. Matrices' differences
  have decaying singular values, as those of trained models have.
  The last row is what full singular value decompositions of every changed matrix of every task take; one of each shape
  is measured, and multiplied by how many there are.
* predict: images/s in each precision, with and without torch.compile, and the share of the rate of matrix products.
* statistics: what benchmarks.statistics measures.
* train: a step of each fine-tuning mode, by the program's own loop, after the first ones, and the memory that it takes.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.evaluate import prediction_rate
from benchmarks.inputs import FOLDER, clip_outline, noise_statistic
from benchmarks.machine import copy_rate, facts_of, matrix_rate, parser_of, wait_for
from benchmarks.memory import peak_of
from benchmarks.merge import full_decompositions, hold
from benchmarks.noise import MODES, noise_batch, prediction_flops, random_family, time_steps, training_flops
from benchmarks.rows import Figures, Report, Row
from benchmarks.statistics import COLLECTED, statistics_rows
from command_line.build import build_device, build_method
from command_line.config import ROOT, compose_config
from src.checkpoints.opening import open_checkpoint
from src.elementwise import add_vector
from src.experiments.titles import STEPS
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method
from src.models.family import PRECISIONS, ModelFamily
from src.models.layers import depth_by_name, is_layer_by_name
from src.state_dict import byte_size

BASELINES = ("zeroshot", "zero-shot", "single_task")  # nothing is merged
OPTIONS = {  # without which a method would merge once for each factor of its grid
    "cg": ["method.iterations=10", "method.tolerance=0", "method.off_diagonal=1"],
    "regmean": ["method.off_diagonal=1"],
}
MODELS = ("ViT-B-32", "ViT-L-14")
TEST_SECONDS = 150
T = TypeVar("T")


class Bench:
    """The rows of the benchmark, with the device and the sizes they are measured at."""

    def __init__(self, device: torch.device, folder: Path, small: bool):
        self.device, self.folder, self.small = device, folder, small
        self.few, self.many = (2, 3) if small else (8, 20)
        self.batch_size, self.passes, self.steps = (4, 2, 3) if small else (512, 10, 12)
        self.collected = ("ViT-demo",) if small else COLLECTED
        self.matrix, self.copied = (256, 2**20) if small else (8192, 2**32)

    def rows(self) -> Iterator[Row]:
        """Yield the rows to measure, the most important first."""
        yield Row("device", "rates", self.rates)
        yield Row("tests", "marked gpu", self.tests)
        first, *others = ("ViT-demo",) if self.small else MODELS
        yield from self.merges(first, self.few)
        yield from self.predictions(first, False)
        yield from self.trainings(first, 128)
        yield from statistics_rows(self.device, self.collected, *((2, 2) if self.small else (64, 5)))
        for model in others:
            yield from self.merges(model, self.few)
            yield from self.predictions(model, False)
        yield from self.merges(first, self.many)
        yield from self.predictions(first, True)
        for model in others:
            yield from self.trainings(model, 32)
            yield from self.predictions(model, True)

    def rates(self) -> Figures:
        """Return the rates of matrix products, of the device's memory and of the link to the host."""
        figures: Figures = {f"{name} TFLOP/s": self.matrix_rate(name) / 1e12 for name in PRECISIONS}
        figures["memory GB/s"] = self.memory_rate() / 1e9
        host = torch.zeros(self.copied // 4, dtype=torch.uint8)
        on_device = torch.empty_like(host, device=self.device)
        figures["from host GB/s"] = copy_rate(host, on_device) / 1e9
        if self.device.type == "cuda":
            figures["from pinned host GB/s"] = copy_rate(host.pin_memory(), on_device) / 1e9
        return figures

    def tests(self) -> Figures:
        """Run the tests marked gpu in a process of their own; return pytest's last line. Raise RuntimeError if one fails."""
        files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:xdist", "-o", "addopts=", "-q", *files]
        run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TEST_SECONDS)
        *_, last = run.stdout.strip().splitlines() or [""]
        if run.returncode or (self.device.type == "cuda" and "passed" not in last):
            print(run.stdout[-8000:], flush=True)
            raise RuntimeError(last)
        return {"outcome": last}

    def merges(self, model: str, tasks: int) -> Iterator[Row]:
        """Yield a row for each method, and one of models in the host's memory."""
        section = f"merge, {tasks} {model}"
        for name, method in methods().items():
            yield Row(section, name, lambda method=method: self.merge(method, model, tasks))
        yield Row(section, "sum, from host memory", lambda: self.merge(methods()["sum"], model, tasks, from_host=True))
        yield Row(section, "full SVDs of each task's matrices", lambda: full_decompositions(self.inputs(model, tasks)))

    def merge(self, method: Method, model: str, tasks: int, from_host: bool = False) -> Figures:
        """Return the seconds and peak memory of a merge on the device and of one more candidate, with lower bounds."""
        inputs = self.inputs(model, tasks, from_host, method.needs)
        if method.mask_method:
            mask_family, value = method.mask_method(inputs), method.mask_method.coefficients(tasks)[0]
            method = method.with_masks(mask_family.masks_at(dict.fromkeys(inputs.tasks, value)))
        grid = method.coefficients(tasks)
        coefficient = grid[len(grid) // 2]

        def merge() -> tuple[MergeFamily, list[Tensor]]:
            family = method(self.without_memo(inputs))
            return family, hold(method, family, inputs.tasks, coefficient)

        merge()  # the first time, libraries load what they need
        gc.collect()
        rate, link = self.memory_rate(), self.link_rate()
        with peak_of(self.device) as peak:
            seconds, (family, held) = self.seconds(merge)
        del held
        read = (tasks + 1) * byte_size(inputs.pretrained)
        read += sum(byte_size(entries) for kind in inputs.statistics.values() for entries in kind.values())
        bound = read / link if from_host else (read + byte_size(inputs.outline)) / rate
        figures: Figures = {
            "seconds": seconds,
            "lower bound": bound,
            "ratio": seconds / bound,
            "peak GiB": peak.above / 2**30,
        }
        if not method.per_task and not from_host:
            candidates = [partial(candidate, inputs, family, number) for number in grid[:3] * 2]
            figures["candidate"] = min(self.seconds(work)[0] for work in candidates)
            figures["candidate's lower bound"] = 3 * self.changed_bytes(inputs) / rate
        return figures

    def predictions(self, model: str, compiled: bool) -> Iterator[Row]:
        """Yield a row for each precision."""
        for precision in PRECISIONS:
            name = f"{model}, {precision}{', compiled' if compiled else ''}"
            yield Row("predict", name, lambda precision=precision: self.prediction(model, precision, compiled))

    def prediction(self, model: str, precision: str, compiled: bool) -> Figures:
        """Return the rate of predictions on batches that are on the device, and how many differ from float32's."""
        if compiled:
            torch.compiler.reset()  # else a second model of other sizes is compiled for sizes of all kinds
        families = self.family(model, compiled), self.family(model)
        rate, different = prediction_rate(*families, precision, self.batch_size, self.passes)
        used = rate * self.flops(model)
        share = 100 * used / self.matrix_rate(precision)
        return {"images/s": rate, "TFLOP/s": used / 1e12, "% of matrix rate": share, "% unlike fp32": 100 * different}

    def trainings(self, model: str, size: int) -> Iterator[Row]:
        """Yield a row for each fine-tuning mode."""
        size = self.batch_size if self.small else size
        for mode in MODES:
            section = f"train, {model}, batches of {size}, {self.train_precision}"
            yield Row(section, mode, lambda mode=mode: self.training(model, mode, size))

    def training(self, model: str, mode: str, size: int) -> Figures:
        """Return the time and peak memory of a fine-tuning step in a mode."""
        family = self.family(model)
        batch = noise_batch(family, size)
        with tempfile.TemporaryDirectory(dir=self.folder) as name, peak_of(self.device) as peak:
            seconds = median(time_steps(family, mode, batch, self.steps, self.train_precision, Path(name))[1:])
        share = training_flops(family, batch) / seconds / self.matrix_rate(self.train_precision)
        return {
            "ms a step": 1000 * seconds,
            "images/s": size / seconds,
            "% of matrix rate, as a standard step": 100 * share,
            "peak GiB": peak.above / 2**30,
        }

    @property
    def train_precision(self) -> str:
        """The precision of fine-tuning that the program would choose on this device."""
        return "bf16" if self.device.type == "cuda" else "fp32"

    @cache  # noqa: B019  one bench a process
    def family(self, model: str, compiled: bool = False) -> ModelFamily:
        """Return a model with random weights, made once: drawing them takes seconds."""
        return random_family(model, self.device, self.folder, f"compile={str(compiled).lower()}")

    @cache  # noqa: B019
    def flops(self, model: str) -> float:
        """Return the floating-point operations of predicting an image."""
        family = self.family(model)
        return prediction_flops(family, noise_batch(family, 2)) / 2

    @cache  # noqa: B019
    def matrix_rate(self, precision: str) -> float:
        """Return the operations a second of a large matrix product."""
        return matrix_rate(self.device, precision, self.matrix)

    @cache  # noqa: B019
    def memory_rate(self) -> float:
        """Return the bytes a second that a copy on the device reads and writes."""
        source = torch.zeros(self.copied, dtype=torch.uint8, device=self.device)
        return 2 * copy_rate(source, torch.empty_like(source))

    @cache  # noqa: B019
    def link_rate(self) -> float:
        """Return the bytes a second of copies from the host's memory, as files are read into it."""
        host = torch.zeros(self.copied // 4, dtype=torch.uint8)
        return copy_rate(host, torch.empty_like(host, device=self.device))

    def inputs(self, model: str, tasks: int, from_host: bool = False, needs: Sequence[str] = ()) -> MergeInputs:
        """Return random models, whose fine-tuned ones differ in the image tower, and statistics of the kinds in `needs`."""
        shapes = open_checkpoint(ROOT / "demo/ViT-demo.safetensors").outline if self.small else clip_outline(model)
        draw = torch.Generator(self.device).manual_seed(0)

        def noise(scale: float, key: str) -> Tensor:
            values = scale * torch.randn(shapes[key].shape, generator=draw, device=self.device)
            if values.ndim == 2:
                values /= torch.arange(1, values.shape[1] + 1, device=self.device).sqrt()
            return values.cpu() if from_host else values

        pretrained = {key: noise(0.02, key) for key in shapes}

        def finetuned() -> dict[str, Tensor]:
            return {key: leaf + noise(1e-3, key) if "visual." in key else leaf.clone() for key, leaf in pretrained.items()}

        models = {f"task{number}": finetuned() for number in range(tasks)}
        statistics = {kind: {task: noise_statistic(kind, pretrained, task, self.device) for task in models} for kind in needs}
        return MergeInputs(pretrained, models, depth_by_name(pretrained), is_layer_by_name, self.device, True, statistics)

    def without_memo(self, inputs: MergeInputs) -> MergeInputs:
        """Return the same models without what an earlier merge memoized."""
        return replace(inputs, memo={})

    def changed_bytes(self, inputs: MergeInputs) -> int:
        """Return the bytes of a vector's entries that any task changed."""
        return byte_size({key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)})

    def seconds(self, work: Callable[[], T]) -> tuple[float, T]:
        """Return how many seconds `work` takes, and its result."""
        wait_for(self.device)
        started = time.perf_counter()
        result = work()
        wait_for(self.device)
        return time.perf_counter() - started, result


@cache
def methods() -> dict[str, Method]:
    """Return each method that merges, by name, and the sum with what may come after; a method with two names is listed once."""
    names = sorted(path.stem for path in (ROOT / "config/method").glob("*.yaml"))
    built = {name: build_method(compose_config([f"method={name}", *OPTIONS.get(name, [])])) for name in names}
    named = {name: method for name, method in built.items()
             if name not in BASELINES and method.needs_models and not method.unlabelled_split}  # fmt: skip
    first_names = {repr(method.description): name for name, method in reversed(named.items())}
    distinct = {name: method for name, method in named.items() if name in first_names.values()}
    steps = {
        f"sum, {title}": build_method(compose_config(["method=sum", f"method.apply_{step}=True"]))
        for step, title in STEPS.items()
    }
    return {**distinct, **steps}


def candidate(inputs: MergeInputs, family: MergeFamily, coefficient: float) -> list[Tensor]:
    """Return the entries of a merged model."""
    return list(add_vector(inputs.pretrained, next(iter(family(coefficient).values()))).values())


def main() -> None:
    parser: argparse.ArgumentParser = parser_of(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and few of them")
    parser.add_argument("--minutes", type=float, default=7, help="no row is begun later than this")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.md; if small, cache/benchmarks")
    parser.add_argument("--only", default="", help="only rows whose section or name contains one of these texts, with ; between")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    device = build_device(compose_config([f"device={options.device}"]))
    facts = facts_of(device)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory() as name:
        report = Report(options.out or (FOLDER if options.small else Path(__file__).parent), "gpu", facts, deadline)
        for row in Bench(device, Path(name), options.small).rows():
            if any(part in f"{row.section}, {row.name}" for part in options.only.split(";")):
                report.add(row)
    if report.failures:
        sys.exit(f"failed: {'; '.join(report.failures)}")


if __name__ == "__main__":
    main()
