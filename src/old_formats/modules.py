"""Read the tensors of pickled modules without running, importing or even having the code that they are objects of.

Heads and older encoders were saved as objects. Every name such a pickle uses stands here for something inert: a class of
a module becomes an object that holds what was set on it, tensors are rebuilt by us, and any other name is refused.
"""

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from src.errors import UserError
from src.old_formats.stand_ins import STAND_INS, Inert, Pending
from src.old_formats.torch_files import Stored, read_torch_file

# Whose classes modules and the preprocessing beside them are made of. None of it is imported.
PACKAGES = ("torch.nn.", "torchvision.transforms.", "open_clip.", "clip.", "src.")
DEEPEST = 2  # dicts in dicts: {"model": {"weight": ...}} and one to spare, as a few bytes can nest them for ever
MOST = 100_000  # modules in one file: a few bytes can name one child for ever


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, stored: dict[str, Stored]):
        super().__init__(file, encoding="utf-8")
        self._path, self._stored = path, stored

    def find_class(self, module: str, name: str) -> object:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2, as ours
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        if f"{module}.".startswith(PACKAGES):
            return Inert
        raise UserError(
            f"{self._path} holds more than tensors and modules: it asks to call {module}.{name}; nothing in it was run. "
            "Do not use a file you do not trust; of one you do, save the state dict alone: torch.save(model.state_dict(), ...)"
        )

    def persistent_load(self, reference: object) -> object:
        if isinstance(reference, tuple) and reference[:1] == ("module",) and reference[1] is Inert:
            return Inert  # the old form wrote a module's source beside its class
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise pickle.UnpicklingError("it refers to something outside that is no storage")
        _, kind, key, _, count, *view = reference
        if view not in ([], [None]):
            raise pickle.UnpicklingError("it holds a view of a storage, as torch wrote before 0.4")
        return self._stored.setdefault(key, Stored(key, kind, count))


def read_modules(path: Path) -> object:
    """What torch.save wrote, with each module in it replaced by its state dict.

    Raises UserError naming what the file asks to call, if that is anything but what rebuilds modules and tensors; an
    unreadable file raises whatever the reading of a spoiled pickle happens to.
    """
    return _made(read_torch_file(path, lambda file, stored: _Reader(file, path, stored).load()))


def _made(found: object, depth: int = 0) -> object:
    if isinstance(found, Pending):
        return found.made()
    if isinstance(found, Inert):
        return _published(dict(_entries(found, "", [0])))
    if isinstance(found, dict) and depth <= DEEPEST:
        return {key: _made(value, depth + 1) for key, value in found.items()}
    return found


def _entries(module: Inert, prefix: str, visited: list[int]) -> Iterator[tuple[str, Tensor]]:
    """As the module's own state_dict() names and orders them."""
    visited[0] += 1
    if visited[0] > MOST:
        raise pickle.UnpicklingError(f"it holds more than {MOST} modules")
    passing = module.state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers"):
        for name, leaf in _table(module, part).items():
            if isinstance(leaf, Pending) and not (part == "_buffers" and name in passing):
                yield f"{prefix}{name}", leaf.made()
    for name, child in _table(module, "_modules").items():
        if isinstance(child, Inert):
            yield from _entries(child, f"{prefix}{name}.", visited)


def _table(module: Inert, part: str) -> Mapping:
    found = module.state.get(part, {})
    return found if isinstance(found, dict) else {}


def _published(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the text transformer, if this is a whole CLIP: published encoders are without it."""
    whole = any(key.startswith("model.visual.") for key in entries)
    return {key: leaf for key, leaf in entries.items() if not (whole and key.startswith("model.transformer."))}
