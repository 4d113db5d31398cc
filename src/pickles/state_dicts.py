"""State dicts out of whatever torch.save wrote: plain and wrapped ones, modules, TorchScript, linearized checkpoints."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from src.errors import UserError, shorten
from src.pickles.linearized import FINETUNED, MODEL_NAME, REFERENCE, is_linearized, named_parameters
from src.pickles.modules import Unpickled, read_modules
from src.pickles.stand_ins import OddTensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # the one that is read where a file holds several dicts
PLAIN = (str, int, float, bool, type(None))
Keys = tuple[str, ...]  # that lead from dict to dict


@dataclass(frozen=True)
class Contents:
    """The contents of one file.

    entries: tensors by name; of a linearized checkpoint the fine-tuned ones.
    reference: of a linearized checkpoint, the entries it is linear around; None of any other.
    part: which of the file's dicts `entries` is, the keys on the way with dots between them; "" where it is the whole.
    others: the file's other state dicts, named like `part`.
    leftovers: what else the file holds beside `entries`, named like `part`: all of it but numbers and texts.
    facts: the numbers and texts beside `entries`, such as the epoch.
    """

    entries: Mapping[str, Tensor]
    reference: Mapping[str, Tensor] | None = None
    part: str = ""
    others: Sequence[str] = ()
    leftovers: Sequence[str] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


class SeveralModels(UserError):
    """A file holds several models, and none of the usual name.

    parts: what names each, as `PATH@PART`.
    """

    def __init__(self, path: Path, parts: Sequence[str]):
        super().__init__(f"{path} holds several models; name one of {shorten(parts, 6)}")
        self.parts = parts


def read_contents(path: Path, part: str = "") -> Contents:
    """Return the state dict in a file, mapped and not copied, and what else the file holds; nothing in it is executed.

    part: which one to read, by its keys with dots between them, or by a word in them (`ema`); "" for the usual one.

    Raise UserError if the file cannot be read, holds other things than tensors and modules where a state dict is
    looked for, or no such part, or several and no usual one.
    """
    content, dropped = _load(path)
    where = _find(path, content, part)
    entries, siblings = content, {}
    for depth, key in enumerate(where):
        siblings |= {(*where[:depth], name): value for name, value in entries.items() if name != key}
        entries = entries[key]
    _check_entries(path, entries)
    reference = None
    if is_linearized(entries):
        try:
            entries, reference = named_parameters(entries, FINETUNED), named_parameters(entries, REFERENCE)
        except ValueError as error:
            raise UserError(f"{path} is a linearized checkpoint of no model that is known here: {error}") from error
    others = [keys for keys in _state_dicts(content) if keys[: len(where)] != where[: len(keys)]] if where else []
    return Contents(
        entries,
        reference,
        _joined(where),
        list(map(_joined, others)),
        [*(_joined(keys) for keys, value in siblings.items() if not isinstance(value, PLAIN)), *dropped],
        {_joined(keys): value for keys, value in siblings.items() if isinstance(value, PLAIN)},
    )


def _find(path: Path, content: object, part: str) -> Keys:
    """Return the keys that lead to the state dict to read."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    parts = list(_state_dicts(content))
    is_wrapped = parts or any(isinstance(content.get(name), Mapping) for name in WRAPPERS)
    if not is_wrapped and any(isinstance(leaf, Tensor) for leaf in content.values()):
        return ()
    where: Keys = ()
    if part:
        where = tuple(part.split("."))
        exact = [keys for keys in parts if _joined(keys) == part]
        fitting = exact or [keys for keys in parts if part in re.split(r"[._]", _joined(keys))]
        if not exact and isinstance(_at(content, where), Mapping):
            fitting = [where]
        if len(fitting) != 1:
            there = shorten([f"{path}@{_joined(keys)}" for keys in fitting or parts], 6) or "the whole file"
            raise UserError(f"{path} holds {'several parts' if fitting else 'no part'} called {part}; there is {there}")
        where = fitting[0]
    while inner := next((name for name in WRAPPERS if isinstance(_at(content, (*where, name)), Mapping)), None):
        where = (*where, inner)
    if not where:
        if len(parts) > 1:
            raise SeveralModels(path, [f"{path}@{_joined(keys)}" for keys in parts])
        where = parts[0] if parts else ()
    return where


def _at(content: object, keys: Keys) -> object:
    """Return what lies in nested dicts under these keys; None if there is nothing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _state_dicts(content: Mapping[object, object], before: Keys = (), depth: int = 2) -> Iterator[Keys]:
    """Yield the keys that lead to dicts of nothing but tensors in nested dicts."""
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping) and value:
            if all(isinstance(leaf, Tensor) for leaf in value.values()):
                yield (*before, key)
            elif depth:
                yield from _state_dicts(value, (*before, key), depth - 1)


def _joined(keys: tuple[object, ...]) -> str:
    """Return the name of a part: its keys with dots between them."""
    return ".".join(map(str, keys))


def _load(path: Path) -> Unpickled:
    """Return what is in a file. Raise UserError if it cannot be read."""
    try:
        return read_modules(path)
    except UserError:
        raise
    except Exception as error:  # torch and pickle raise a dozen kinds here, all of which mean an unreadable file
        summary = (str(error).splitlines() or [""])[0][:160]
        raise UserError(
            f"{path} cannot be read as a file of torch.save ({type(error).__name__}: {summary}): "
            "it is truncated or no such file; copy or download it again"
        ) from error


def _check_entries(path: Path, entries: Mapping[str, object]) -> None:
    """Raise UserError unless a dict holds tensors only; of a linearized checkpoint also the model's name."""
    size, has_model_name = path.stat().st_size, is_linearized(entries)
    checks = (_problem(key, leaf, size) for key, leaf in entries.items() if not (has_model_name and key == MODEL_NAME))
    problems = [problem for problem in checks if problem]
    if problems:
        raise UserError(
            f"{path} is not a dict of tensors only: {', '.join(problems[:3])}; save a plain state dict: "
            "torch.save(model.state_dict(), ...)"
        )


def _problem(key: object, leaf: object, size: int) -> str | None:
    """Return what is wrong with an entry of a file of `size` bytes; None for an ordinary tensor.

    A stride of zero lets one number stand for any count of them, and computing with such a tensor runs out of memory.
    """
    if not isinstance(key, str):
        return f"{key!r} (a {type(key).__name__} for a name)"
    if isinstance(leaf, OddTensor):
        return f"{key} ({leaf.kind})"
    if not isinstance(leaf, Tensor):
        return f"{key} (a {type(leaf).__name__})"
    if leaf.numel() * leaf.element_size() > size:
        return f"{key} (of shape {tuple(leaf.shape)}, which is more than the whole file)"
    return None
