"""T5s as a model family: text tasks, answered by ranking choices or by generating text."""

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import xxhash
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from src.checkpoints.naming import Spelling
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.models.adapters import add_lora
from src.models.entropy import entropies
from src.models.family import PRECISIONS, Batch, TaskLike, Trainable
from src.models.loader import ExampleId, load_batches
from src.models.mixture import tasks_of
from src.models.modes import LowRank, Mode, trained_parameters
from src.models.sampling import draw
from src.models.t5.files import find_model
from src.models.t5.loading import HEAD, load_t5
from src.models.t5.network import Weights, is_of_inputs
from src.models.t5.parameters import dense_parameters, ia3_parameters
from src.models.t5.predictor import TextPredictor
from src.models.t5.scoring import MOST_NEW, answer_log_probs, generate, most_probable, per_token, sampler, token_loss
from src.models.t5.tasks import TextTaskLike
from src.models.t5.tokens import PAD, TrainingExamples
from src.runtime.progress import SILENT, Progress
from src.state_dict import StateDict, combined_digest

SPAN = 256  # examples, whose scores a killed run loses at most
BATCH = 32  # examples that are scored together, of at most 512 tokens and often several choices
BLOCKS = r"^(?:encoder|decoder)\.block\.\d+\.layer\.\d+\."
TRUNCATED = 50  # tokens that the released code of MaTS draws from, as transformers does unless told otherwise


class T5:
    """A T5, T5 v1.1 or Flan-T5, by transformers' names of its weights, each of which it has once.

    name: as in results and folders.
    pretrained: a folder, a weight file, or a repository OWNER/NAME of the Hub.
    device: where the model computes.
    folder: where a repository is fetched to.
    revision: of the repository: a branch, tag or commit; None for the one it was first fetched at, else its newest.
    tokenizer: a file in place of the model's own.
    reference: the pre-trained weights, where a set of checkpoints brings its own.
    precision: of predictions, fp32, bf16 or fp16.
    compiled: whether by torch.compile, which texts of all lengths would compile again and again: refused.
    length_normalised: whether choices are ranked by the mean log-probability of their tokens, not by the sum.
    progress: listener, in bytes, of what is fetched.

    Raise UserError if the model cannot be had or loaded.
    """

    modality = "text"

    def __init__(
        self,
        name: str,
        pretrained: str,
        device: torch.device,
        folder: Path,
        revision: str | None = None,
        tokenizer: str | None = None,
        reference: StateDict | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        length_normalised: bool = False,
        progress: Progress = SILENT,
    ):
        if precision not in PRECISIONS:
            raise UserError(f"precision is {', '.join(PRECISIONS)}; got {precision}")
        if compiled:
            raise UserError(f"compile=true is for images, and {name} reads text; leave it out")
        loaded = load_t5(find_model(pretrained, folder, revision, tokenizer, reference is None, progress), reference)
        self.name, self.device, self.precision = name, device, precision
        self._settings, self._tokens, self._length_normalised = loaded.settings, loaded.tokens, length_normalised
        self._parameters = dense_parameters(loaded.network, loaded.weights, device)
        self._tasks: dict[str, TextTaskLike] = {}
        self._splits: dict[tuple[str, str], Dataset] = {}
        self._digests: dict[tuple[str, str], str] = {}  # of splits' examples

    @property
    def batch_size(self) -> int:
        """The number of examples that are scored together."""
        return BATCH

    def with_ia3(self) -> "T5":
        """Return the same model with the vectors of (IA)^3 for parameters; its own weights stay as they are."""
        other = copy.copy(self)
        other._parameters = ia3_parameters(self._parameters)
        return other

    @property
    def identity(self) -> str:
        decisive = {key: value for key, value in self._settings.items() if key != "dropout_rate"}
        facts = [decisive, MOST_NEW, self._length_normalised, self._parameters.frozen_digest]
        return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())

    @property
    def module(self) -> nn.Module:
        """The network without storage for its weights: hooks on its layers see what passes through them."""
        return self._parameters.network.module

    @property
    def pretrained(self) -> StateDict:
        return self._parameters.pretrained

    @property
    def pretrained_digests(self) -> Mapping[str, str]:
        return self._parameters.digests

    @property
    def pretrained_digest(self) -> str:
        return combined_digest(self.pretrained_digests.values())

    def canonical(self, weights: StateDict) -> Spelling:
        return self._parameters.canonical(weights)

    def predictor(self, weights: StateDict, precision: str | None = None) -> TextPredictor:
        self._parameters.check_fits(weights, self.name)
        complete = self._parameters.complete(self.on_device(weights))
        dtype = PRECISIONS[precision or self.precision]
        return TextPredictor(self._parameters.network, complete, dtype, self._rank, self._tokens, self._tasks)

    def linearized(self) -> "T5":
        """Raise UserError: of an answer token by token there is no tangent model here."""
        raise UserError(
            f"the tangent model is for images, and {self.name} reads text; give finetuning_mode=standard, ia3 or lora"
        )

    def trainable(self, mode: Mode) -> Trainable:
        """Return what trains in this mode, starting from `pretrained`: of (IA)^3, all vectors."""
        if mode.trained_linearized:
            self.linearized()
        names = list(self.pretrained) if self._parameters.frozen else self._trained_names(mode.trains)
        total = sum(leaf.numel() for leaf in (self._parameters.frozen or self.pretrained).values())
        if mode.lora:
            return self._lora_trainable(mode.lora, names, total)
        start = self.on_device({key: self.pretrained[key] for key in names})
        still = self._parameters.complete(
            self.on_device({key: self.pretrained[key] for key in self.pretrained if key not in start})
        )

        def loss(entries: Mapping[str, Tensor], batch: Batch) -> Tensor:
            return self._summed_loss({**still, **entries}, batch)

        def save(entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
            save_file({key: entries.get(key, leaf) for key, leaf in self.pretrained.items()}, path, metadata)

        parameters = {name: nn.Parameter(leaf.clone()) for name, leaf in start.items()}
        return Trainable(parameters, loss, save, total, lambda entries: {**self.pretrained, **entries})

    def prepare(self, task: TaskLike) -> str:
        """Remember the task; return the tokenizer's digest, as nothing else answers. Raise UserError if it is none of text."""
        for each in tasks_of(task):
            if not hasattr(each, "metric"):
                raise UserError(
                    f"{each.name} is no task of text, and {self.name} reads nothing else; choose other tasks or another model"
                )
            self._tasks[each.name] = each
        return self._tokens.digest

    def spans(self, task: TextTaskLike, split: str) -> Sequence[range]:
        count = self.count(task, split)
        return [range(start, min(start + SPAN, count)) for start in range(0, count, SPAN)]

    def count(self, task: TextTaskLike, split: str) -> int:
        return len(self._split(task, split))

    def batches(self, task: TextTaskLike, split: str, size: int, span: range) -> Iterator[Batch]:
        examples = self._split(task, split)
        for start in range(span.start, span.stop, size):
            indices = range(start, min(start + size, span.stop))
            yield self._on_device(self._tokens.scoring_batch(task.name, [examples[index] for index in indices]))

    def training_batches(
        self, task: TextTaskLike, batches: Iterable[Sequence[ExampleId]], seed: int, workers: int
    ) -> Iterator[Batch]:
        examples = TrainingExamples(cache(task.training_examples), self._tokens)
        # started here, and not with the first batch, as it draws a random number, which would be taken from that step's
        loaded = load_batches(examples, batches, workers, self.device.type == "cuda")

        def batch(inputs: dict[str, Tensor]) -> Batch:
            return self._on_device(Batch(task.name, inputs, torch.zeros(len(inputs["input"]), dtype=torch.int64)))

        return map(batch, loaded)

    def data_digest(self, task: TextTaskLike, split: str) -> str:
        if (task.name, split) not in self._digests:
            hasher = xxhash.xxh3_128()
            examples = self._split(task, split)
            for each in (examples[index] for index in range(len(examples))):
                facts = [each.input, each.target, list(each.choices), each.label, list(each.references)]
                hasher.update(json.dumps(facts).encode())
            self._digests[task.name, split] = hasher.hexdigest()
        return self._digests[task.name, split]

    def depth(self, key: str) -> float | None:
        return self._parameters.depth(key)

    def is_layer(self, key: str) -> bool:
        """Whether a two-dimensional parameter is a layer's matrix: no embedding, nor an output layer that is one."""
        return key in self._parameters.linear

    def notes(self, tasks: Iterable[TaskLike]) -> list[str]:
        return []

    def head_sources(self, tasks: Iterable[TaskLike]) -> dict[str, str]:
        """Return {}: nothing beside the model answers."""
        return {}

    def on_device(self, weights: StateDict) -> dict[str, Tensor]:
        """Return weights where the model computes, in float32."""
        return self._parameters.placed(weights)

    def linear_layers(self) -> list[str]:
        """Return the names of the weights W of layers y = W x, those of `pretrained` alone."""
        return self._parameters.linear

    def output_layers(self) -> list[str]:
        """Return the name of the layer that gives logits, if it is one of these."""
        return [HEAD] if HEAD in self._parameters.linear else []

    def log_probs(self, entries: Weights, batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the log-probability of each choice, (n, choices); -inf for padding.

        entries: by the names of `pretrained`, on the device.
        dtype: of the log-softmax.

        Raise UserError if the task has no choices.
        """
        if "choices" not in batch.inputs:
            raise UserError(f"{batch.task} has no choices to take an expectation over; give statistics.labels=empirical or true")
        weights, inputs = self._parameters.complete(entries), batch.inputs
        return answer_log_probs(self._parameters.network, weights, inputs["input"], inputs["choices"], dtype)

    def objective(self, entries: Weights, batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the mean log-probability of each target's tokens, (n,).

        entries: by the names of `pretrained`, on the device.
        dtype: of the log-softmax.
        """
        weights, answers = self._parameters.complete(entries), batch.inputs["target"][:, None]
        log_probs = answer_log_probs(self._parameters.network, weights, batch.inputs["input"], answers, dtype)
        return per_token(log_probs, answers)[:, 0]

    def entropy(self, entries: Weights, batch: Batch) -> Tensor:
        """Return the entropy of each answer, (n,): that of the choices, or the mean over a generated answer's tokens.

        entries: by the names of `pretrained`, on the device.
        """
        if "choices" in batch.inputs:
            return entropies(self._rank(self.log_probs(entries, batch), batch.inputs["choices"]))
        weights, network = self._parameters.complete(entries), self._parameters.network
        with torch.no_grad():
            answers = generate(network, weights, batch.inputs["input"], most_probable)
        logits = network.logits(weights, network.encode(weights, batch.inputs["input"]), answers[:, None])[:, 0]
        is_token = answers != PAD
        return (entropies(logits) * is_token).sum(1) / is_token.sum(1).clamp(min=1)

    def with_choice(self, batch: Batch, choices: Tensor) -> Batch:
        """Return a batch with choices, (n,) indices, for targets."""
        rows = torch.arange(len(choices), device=choices.device)
        return replace(batch, inputs={**batch.inputs, "target": batch.inputs["choices"][rows, choices]})

    @torch.no_grad()
    def sampled(self, entries: Weights, batch: Batch, generators: Sequence[Generator], top: int | None = TRUNCATED) -> Batch:
        """Return a batch with answers drawn by their probabilities for targets.

        entries: by the names of `pretrained`, on the device.
        generators: of the examples.
        top: the number of most probable tokens that generated answers are drawn from; None for all.
        """
        if "choices" in batch.inputs:
            return self.with_choice(batch, draw(self.log_probs(entries, batch).softmax(1), generators))
        weights = self._parameters.complete(entries)
        answers = generate(self._parameters.network, weights, batch.inputs["input"], sampler(generators, top))
        return replace(batch, inputs={**batch.inputs, "target": answers})

    def token_mask(self, layer: str, batch: Batch) -> Tensor:
        """Return which tokens count in a layer, (n, tokens): the input's, or the target's.

        layer: the name of its weight.
        """
        return batch.inputs["input" if is_of_inputs(layer) else "target"] != PAD

    def _rank(self, log_probs: Tensor, choices: Tensor) -> Tensor:
        """Return the scores that rank choices, (n, choices), of their log-probabilities."""
        return per_token(log_probs, choices) if self._length_normalised else log_probs

    def _trained_names(self, trains: str) -> list[str]:
        """Return the names of the weights that train; of parts of blocks, linear layers alone."""
        names = trained_parameters(self.pretrained, BLOCKS, trains)
        return names if len(names) == len(self.pretrained) else [name for name in names if self.is_layer(name)]

    def _lora_trainable(self, lora: LowRank, names: Sequence[str], total: int) -> Trainable:
        """Return LoRA's factors for the matrices `names`, of a model with `total` parameters."""
        factors = add_lora(copy.deepcopy(self.module).to_empty(device=self.device), lora, names)
        reference = self.on_device(self.pretrained)

        def loss(entries: Mapping[str, Tensor], batch: Batch) -> Tensor:
            return self._summed_loss({**reference, **factors.weights(entries, reference)}, batch)

        def weights(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {**self.pretrained, **factors.weights(entries, reference)}

        return Trainable(factors.parameters, loss, factors.save, total, weights)

    def _summed_loss(self, weights: Weights, batch: Batch) -> Tensor:
        """Return the batch's mean loss of a token times its number of examples, with layers that drop units dropping them.

        So the mean over examples is the mean over tokens, as in the paper on merging in task subspaces.
        """
        with self._training_mode():
            return len(batch) * token_loss(self._parameters.network, weights, batch.inputs["input"], batch.inputs["target"])

    @contextlib.contextmanager
    def _training_mode(self) -> Iterator[None]:
        self.module.train()
        try:
            yield
        finally:
            self.module.eval()

    def _on_device(self, batch: Batch) -> Batch:
        inputs = {name: leaf.to(self.device, non_blocking=True) for name, leaf in batch.inputs.items()}
        return replace(batch, inputs=inputs, labels=batch.labels.to(self.device, non_blocking=True))

    def _split(self, task: TextTaskLike, split: str) -> Dataset:
        if (task.name, split) not in self._splits:
            self._splits[task.name, split] = task.examples(split)
        return self._splits[task.name, split]
