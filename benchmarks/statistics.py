"""What statistics cost: Gram matrices beside a forward pass, Fisher information beside a training step, merges beside products.

    python -m benchmarks.statistics                              the demo's tower, ViT-B-32 and a T5 of the shape of T5-base
    python -m benchmarks.statistics --only ViT-demo,RegMean      these rows
    python -m benchmarks.statistics --device cuda --batch-size 64

Collecting is timed on one batch of noise, by random weights; the passes take turns, so that other load on the machine
affects all of them alike, and the shortest of each counts. Matrices of inputs ride on a forward pass, those of gradients
on a forward and a backward one, which a training step is, too.

Merging is timed on layers of T5-large with random factors of 8 tasks: RegMean beside the one Cholesky decomposition in
float64, its solve and the products that it contains; a product of K-FAC's conjugate gradients beside the plain products of
matrices that it is made of. Memory is the peak above what was there before (see memory.py), beside one layer's factors.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inputs import FOLDER
from benchmarks.machine import facts_of, parser_of, wait_for
from benchmarks.memory import peak_of
from benchmarks.noise import noise_batch, random_family
from benchmarks.rows import Figures, Report, Row
from command_line.build import build_device, build_method, build_mode
from command_line.config import compose_config
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.normal_equations import of_kronecker
from src.merging.engine.statistics import FISHER_DIAG, GRAM_IN, GRAM_OUT
from src.models.family import Batch
from src.statistics.collection import COLLECTORS
from src.statistics.likelihood import Likelihood

TEXT = "T5-base"
COLLECTED = {"ViT-demo": 4, "ViT-B-32": 1, TEXT: 1}  # with the sizes of their batches, times --batch-size
BASE = {"d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12,
        "feed_forward_proj": "gated-gelu", "vocab_size": 32128, "decoder_start_token_id": 0}  # fmt: skip
TOKENS = {"input": 128, "target": 8}
SHAPES = ((1024, 1024), (2816, 1024), (1024, 2816))  # of layers of T5-large, (outputs, inputs)
TASKS = tuple(f"task{number}" for number in range(8))
Timed = dict[str, Callable[[], object]]


def shortest(timed: Timed, turns: int, device: torch.device) -> dict[str, float]:
    """Return the least seconds of each function, which take turns after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(turns + 1):
        for name, function in timed.items():
            wait_for(device)
            started = time.perf_counter()
            function()
            wait_for(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: min(times[1:]) for name, times in seconds.items()}


def base_t5(device: torch.device, folder: Path) -> Likelihood:
    """Return a T5 v1.1 of the shape of T5-base with random weights, through the program's own loader."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import T5Config, T5ForConditionalGeneration

    from src.models.t5 import T5

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**BASE))
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False, "scale_decoder_outputs": False}))
    Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    return T5(TEXT, str(folder), device, folder)


def text_batch(size: int, device: torch.device) -> Batch:
    """Return a batch of random tokens."""
    draw = torch.Generator().manual_seed(0)
    tokens = {name: torch.randint(3, BASE["vocab_size"], (size, length), generator=draw) for name, length in TOKENS.items()}
    return Batch("noise", {name: leaf.to(device) for name, leaf in tokens.items()}, torch.zeros(size, device=device))


def passes(family: Likelihood, batch: Batch) -> Timed:
    """Return what collecting is compared with, and the ways of collecting, on a batch."""
    entries, ones = family.on_device(family.pretrained), torch.ones(len(batch), device=family.device)
    trainable = family.trainable(build_mode(compose_config([])))

    def step() -> None:
        trainable(batch).backward()
        for leaf in trainable.values:
            leaf.grad = None

    def forward() -> None:
        with torch.no_grad():
            family.objective(entries, batch)

    def collect(kind: str) -> None:
        collector = collectors[kind]
        for part in batch.split(collector.together(len(batch))):
            collector.add(part, ones[: len(part)])

    collectors = {kind: COLLECTORS[kind](family, entries) for kind in (GRAM_IN, GRAM_OUT, FISHER_DIAG)}
    return {"forward": forward, "step": step, **{kind: partial(collect, kind) for kind in collectors}}


def collecting(name: str, device: torch.device, size: int, turns: int) -> Figures:
    """Return the time of a forward pass and of a step on a batch, and of collecting beside them."""
    with tempfile.TemporaryDirectory() as folder:
        if name == TEXT:
            family = base_t5(device, Path(folder))
            batch = text_batch(size, device)
        else:
            family = random_family(name, device, Path(folder))
            batch = noise_batch(family, size)
        seconds = shortest(passes(family, batch), turns, device)
    return {
        "forward ms": 1000 * seconds["forward"],
        "step ms": 1000 * seconds["step"],
        "Grams of inputs, forwards more": seconds[GRAM_IN] / seconds["forward"] - 1,
        "Grams of both, steps": seconds[GRAM_OUT] / seconds["step"],
        "Fisher, steps": seconds[FISHER_DIAG] / seconds["step"],
    }


def random_matrices(size: int, rows: int, count: int, device: torch.device) -> Tensor:
    """Return Gram matrices of `rows` random rows each, (count, size, size)."""
    draw = torch.randn(count, rows, size, device=device)
    return torch.bmm(draw.mT, draw) / rows


def regmean(shape: tuple[int, int], device: torch.device, turns: int) -> Figures:
    """Return the seconds of a layer's RegMean, of what it contains, and memory."""
    key, size = "layer.weight", shape[1]
    grams = random_matrices(size, 2 * size, len(TASKS), device)
    pretrained = torch.randn(shape, device=device)
    models = {task: {key: pretrained + 0.01 * torch.randn(shape, device=device)} for task in TASKS}
    statistics = {GRAM_IN: {task: {key: gram} for task, gram in zip(TASKS, grams)}}
    merge_inputs = MergeInputs({key: pretrained}, models, lambda key: None, lambda key: True, device, False, statistics)
    method = build_method(compose_config(["method=regmean", "method.off_diagonal=1"]))
    stack, total = torch.stack([model[key] for model in models.values()]), grams.sum(0).double()

    def merge() -> Tensor:
        return method(merge_inputs)(1.0)[TASKS[0]][key]

    def contained() -> Tensor:
        target = torch.bmm(stack, grams).sum(0).double().T
        return torch.cholesky_solve(target, torch.linalg.cholesky(total))

    seconds = shortest({"method": merge, "contained": contained}, turns, device)
    with peak_of(device) as peak:
        merge()
    return _merging(seconds, peak.above, grams)


def kfac_product(shape: tuple[int, int], device: torch.device, turns: int) -> Figures:
    """Return the seconds of a product of a layer's K-FAC equations, of the plain products in it, and memory."""
    outputs, inputs = shape
    left, right = random_matrices(outputs, 64, len(TASKS), device), random_matrices(inputs, 64, len(TASKS), device)
    values = torch.randn(len(TASKS), *shape, device=device)
    with peak_of(device) as peak:
        equations = of_kronecker(values, right, left)
        equations.operator(values[0])

    def plain() -> None:
        for one, other in zip(left, right):
            one @ (values[0] @ other)

    seconds = shortest({"method": lambda: equations.operator(values[0]), "contained": plain}, turns, device)
    return _merging(seconds, peak.above, left, right)


def _merging(seconds: dict[str, float], above: int, *factors: Tensor) -> Figures:
    held = sum(leaf.numel() * leaf.element_size() for leaf in factors)
    return {
        "ms": 1000 * seconds["method"],
        "contained ms": 1000 * seconds["contained"],
        "ratio": seconds["method"] / seconds["contained"],
        "peak MiB": above / 2**20,
        "factors MiB": held / 2**20,
    }


def statistics_rows(device: torch.device, models: Iterable[str], batch_size: int, turns: int) -> Iterator[Row]:
    """Yield the rows of collecting, of some of COLLECTED, and of merging."""
    for name in models:
        size = COLLECTED[name] * batch_size
        yield Row("statistics, collected", f"{name}, batches of {size}", partial(collecting, name, device, size, turns))
    for name, measure in (("RegMean", regmean), ("K-FAC product", kfac_product)):
        for shape in SHAPES:
            measure_shape = partial(measure, shape, device, turns)
            yield Row("statistics, a layer merged of 8 tasks", f"{name} {shape[0]}x{shape[1]}", measure_shape)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="of images of ViT-B-32 and of texts; the demo's has four times as many"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated: rows whose name begins so")
    options = parser.parse_args()
    device = build_device(compose_config([f"device={options.device}"]))
    report = Report(FOLDER, "statistics", facts_of(device))
    print(", ".join(f"{name} {value}" for name, value in report.facts.items()))
    for row in statistics_rows(device, COLLECTED, options.batch_size, options.turns):
        if row.name.startswith(tuple(options.only.split(","))):
            report.add(row)
    sys.exit(f"failed: {'; '.join(report.failures)}" if report.failures else 0)


if __name__ == "__main__":
    main()
