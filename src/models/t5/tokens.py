"""Texts as token ids, and examples of a task as padded batches of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import xxhash
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from src.errors import UserError
from src.models.family import Batch
from src.models.loader import ExampleId
from src.models.t5.tasks import TextExampleLike
from src.runtime.untrusted import read_json

PAD = 0
LONGEST = 512  # tokens of a text, the end included
NOT_OURS = ("padding", "truncation", "post_processor")  # fields of a tokenizer's file: what is done here, in its stead


class Tokens:
    """A tokenizer of T5: every text ends in `</s>`, and is cut before it where it is too long.

    end: the id of `</s>`.
    digest: of all that decides the ids.
    """

    def __init__(self, tokenizer: Tokenizer, end: int, digest: str):
        self._tokenizer, self.end, self.digest = tokenizer, end, digest

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, `</s>` included."""
        text = text.encode(errors="replace").decode()  # halves of characters, which json can hold, are refused
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids[: LONGEST - 1], self.end]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text that ids stand for, up to the first `</s>`."""
        ids = list(ids)
        return self._tokenizer.decode(ids[: ids.index(self.end)] if self.end in ids else ids, skip_special_tokens=True)

    def scoring_batch(self, task: str, examples: Sequence[TextExampleLike]) -> Batch:
        """Return examples for scoring: `input` and `target`, (n, tokens), and `choices`, (n, choices, tokens), if there are any.

        Labels are indices of choices, or the digests of targets.

        Raise UserError if an example has no right one among its choices.
        """
        inputs = self.training_inputs(examples)
        if not any(each.choices for each in examples):
            labels = torch.tensor([text_digest(each.target) for each in examples])
            return Batch(task, inputs, labels, [each.references for each in examples])
        if any(each.label is None or not 0 <= each.label < len(each.choices) for each in examples):
            raise UserError(f"some examples of {task} have no right one among their choices; correct its templates")
        rows = [[torch.tensor(self.ids(choice)) for choice in each.choices] for each in examples]
        longest, most = max(len(choice) for row in rows for choice in row), max(map(len, rows))
        choices = torch.full((len(rows), most, longest), PAD)
        for number, row in enumerate(rows):
            padded = pad_sequence(row, batch_first=True, padding_value=PAD)
            choices[number, : len(row), : padded.shape[1]] = padded
        return Batch(task, {**inputs, "choices": choices}, torch.tensor([each.label for each in examples]))

    def training_inputs(self, examples: Sequence[TextExampleLike]) -> dict[str, Tensor]:
        """Return `input` and `target` of examples, (n, tokens)."""
        return {name: pad_sequence([torch.tensor(self.ids(getattr(each, name))) for each in examples], True, PAD)
                for name in ("input", "target")}  # fmt: skip


class TrainingExamples(Dataset):
    """Training examples as token ids, several at a time.

    examples: opens the dataset, in the process that reads.
    """

    def __init__(self, examples: Callable[[], Dataset], tokens: Tokens):
        self._examples, self._tokens = examples, tokens

    def __getitems__(self, ids: Sequence[ExampleId]) -> dict[str, Tensor] | UserError:
        """Return `Tokens.training_inputs`, or a UserError, returned not raised (see `load_batches`)."""
        try:
            examples = self._examples()
            return self._tokens.training_inputs([examples[index] for _, index in ids])
        except UserError as error:
            return error


def text_digest(text: str) -> int:
    """Return a number of 63 bits that stands for a text."""
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) >> 1


def read_tokenizer(path: Path, end: int, vocabulary: int) -> Tokens:
    """Return the tokenizer in a file.

    end: the id of `</s>`.
    vocabulary: the number of tokens that the model has embeddings for.

    Raise UserError if there is none, or if it has tokens that the model has not.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path} is no tokenizer; get it again, or name another")
    content = json.dumps({key: value for key, value in fields.items() if key not in NOT_OURS})
    try:
        tokenizer = Tokenizer.from_str(content)
        tokenizer.encode("\u2603 ?")  # of which a vocabulary knows nothing
    except Exception as error:  # the library has no other
        raise UserError(f"{path} is no tokenizer ({str(error)[:200]}); get it again, or name another") from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocabulary or not 0 <= end < vocabulary:
        raise UserError(
            f"{path} has {largest + 1} tokens, and the model {vocabulary}; give the tokenizer that the model was trained with"
        )
    return Tokens(tokenizer, end, xxhash.xxh3_128_hexdigest(f"{LONGEST} {end} {content}".encode()))
