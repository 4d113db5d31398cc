"""Tiny T5s with random weights, and the one of the golden files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from src.models.t5.files import ModelFiles
from src.models.t5.loading import LoadedT5, load_t5

GOLDEN = Path(__file__).parent.parent / "files" / "golden_mats"
FILES = ModelFiles(*(GOLDEN / "inputs" / name for name in ("config.json", "tokenizer.json", "pretrained.safetensors")))
SIZES = {"vocab_size": 128, "d_model": 16, "d_kv": 4, "num_heads": 3, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3,
         "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0}  # fmt: skip


@cache
def golden_t5() -> LoadedT5:
    return load_t5(FILES)


@cache
def golden_json(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def transformers_t5(is_tied: bool, seed: int = 0, **settings: object) -> nn.Module:
    """Return transformers' own model with random weights: T5 v1.0 if its output layer is tied, else T5 v1.1."""
    from transformers import T5Config, T5ForConditionalGeneration

    kind = {"feed_forward_proj": "relu" if is_tied else "gated-gelu", "tie_word_embeddings": is_tied}
    model = T5ForConditionalGeneration(T5Config(**{**SIZES, **kind, **settings}, attn_implementation="eager")).eval()
    if not is_tied:
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
        model.config.tie_word_embeddings = False
    draw = Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(torch.randn(leaf.shape, generator=draw) * 0.3)
    return model


def padded(rows: list[list[int]]) -> Tensor:
    """Return ids padded at the end with 0."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    """Return ids that are neither padding nor the end, each row but for its last, which is the end."""
    ids = torch.randint(3, SIZES["vocab_size"], shape, generator=Generator().manual_seed(seed))
    ids[..., -1] = 1
    return ids


def golden_rows(task: str) -> list[dict]:
    return golden_json("inputs/batches.json")["tasks"][task]["rows"]


def golden_inputs(task: str) -> Tensor:
    return padded([row["input_ids"] for row in golden_rows(task)])


def golden_targets(task: str) -> Tensor:
    return padded([row["target_ids"] for row in golden_rows(task)])


def golden_choices(task: str) -> Tensor:
    rows = [row["choices_ids"] for row in golden_rows(task)]
    return padded([choice for row in rows for choice in row]).view(len(rows), len(rows[0]), -1)


@dataclass(frozen=True)
class Example:
    input: str
    target: str
    choices: tuple[str, ...] = ()
    label: int | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldenTask:
    """A task of the golden files, as text: the same examples in all splits. A generated answer's score is made of its length.

    source: the task whose examples these are; by default the one of this name.
    edit: makes the examples of these.
    """

    name: str
    source: str = ""
    edit: Callable[[list[Example]], list[Example]] = list

    @property
    def definition(self) -> str:
        return self.name

    def examples(self, split: str) -> list[Example]:
        return self.edit([self._example(row) for row in golden_rows(self.source or self.name)])

    def training_examples(self) -> list[Example]:
        return self.examples("train")

    def fingerprint(self, split: str) -> str:
        return f"{self.name} {split}"

    @staticmethod
    def metric(prediction: str, references: Sequence[str]) -> float:
        return 1 / (2 + abs(len(prediction.split()) - len(references[0].split())))

    @staticmethod
    def _example(row: dict) -> Example:
        choices = tuple(map(words, row.get("choices_ids", ())))
        return Example(
            words(row["input_ids"]), words(row["target_ids"]), choices, row.get("label"), tuple(row.get("answers", ()))
        )


def words(ids: Sequence[int]) -> str:
    """Return the golden tokenizer's words of ids, without the end."""
    return " ".join(f"t{token}" for token in ids[:-1])
