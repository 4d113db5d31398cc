"""Read the tensors of pickled modules without running, importing or even having the code that they are objects of.

Heads and older encoders were saved as objects. Every name such a pickle uses stands here for something inert: a class of
a module becomes an object that holds what was set on it, tensors are rebuilt by us, and any other name is refused.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from src.pickles.stand_ins import STAND_INS, InertObject, PendingTensor
from src.pickles.torch_format import PickledStorage, read_torch_file
from src.pickles.unpickler import InertUnpickler

# Whose classes modules and the preprocessing beside them are made of. None of it is imported.
PACKAGES = ("torch.nn.", "torchvision.transforms.", "open_clip.", "clip.", "src.")
DEEPEST = 2  # dicts in dicts: {"model": {"weight": ...}} and one to spare, as a few bytes can nest them for ever
MOST = 100_000  # modules and their tensors in one file: a few bytes can name one child for ever
LONGEST = 1000  # letters of a name, which comes once again in the names of all that is below it


class _Reader(InertUnpickler):
    def __init__(self, file: BinaryIO, path: Path, stored: dict[str, PickledStorage]):
        advice = (
            "Do not use a file you do not trust; of one you do, save the state dict alone: torch.save(model.state_dict(), ...)"
        )
        super().__init__(file, _stand_in, (f"{path} holds more than tensors and modules", advice))
        self._stored = stored

    def persistent_load(self, reference: object) -> object:
        if isinstance(reference, tuple) and reference[:1] == ("module",) and reference[1] is InertObject:
            return InertObject  # the old form wrote a module's source beside its class
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise pickle.UnpicklingError("it refers to something outside that is no storage")
        _, kind, key, _, count, *view = reference
        if view not in ([], [None]):
            raise pickle.UnpicklingError("it holds a view of a storage, as torch wrote before 0.4")
        named = PickledStorage(key, kind, count)
        first = self._stored.setdefault(key, named)
        if (first.dtype, first.count) != (named.dtype, named.count):
            raise pickle.UnpicklingError(f"it names storage {key} twice, with other dtypes or lengths")
        return first


def _stand_in(module: str, name: str) -> object:
    return STAND_INS.get((module, name)) or (InertObject if f"{module}.".startswith(PACKAGES) else None)


def read_modules(path: Path) -> object:
    """What torch.save wrote, with each module in it replaced by its state dict.

    Raises UserError naming what the file asks to call, if that is anything but what rebuilds modules and tensors; an
    unreadable file raises whatever the reading of a spoiled pickle happens to.
    """
    return _Harvest().made(read_torch_file(path, lambda file, stored: _Reader(file, path, stored).load()))


class _Harvest:
    """Makes state dicts of the modules in one file, each once, and of them all no more than MOST modules and tensors.

    Both bounds are the file's: a few hundred bytes can share children so that every level doubles what is above it.
    """

    def __init__(self):
        self._left = MOST
        self._known: dict[tuple[int, int], object] = {}

    def made(self, found: object, depth: int = 0) -> object:
        if not isinstance(found, PendingTensor | InertObject | dict):
            return found
        if (id(found), depth) not in self._known:
            self._known[id(found), depth] = self._make(found, depth)
        return self._known[id(found), depth]

    def _make(self, found: PendingTensor | InertObject | dict, depth: int) -> object:
        if isinstance(found, PendingTensor):
            return found.made()
        if isinstance(found, InertObject):
            return _published(dict(self._entries(found, "")))
        return {key: self.made(value, depth + 1) for key, value in found.items()} if depth <= DEEPEST else found

    def _entries(self, module: InertObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """As the module's own state_dict() names and orders them."""
        self._spend(prefix)
        passing = module.state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set | frozenset) else ()
        for part in ("_parameters", "_buffers"):
            for name, leaf in _table(module, part).items():
                if isinstance(leaf, PendingTensor) and not (part == "_buffers" and name in passing):
                    self._spend(name)
                    yield f"{prefix}{name}", leaf.made()
        for name, child in _table(module, "_modules").items():
            if isinstance(child, InertObject):
                yield from self._entries(child, f"{prefix}{name}.")

    def _spend(self, name: str) -> None:
        self._left -= 1
        if self._left < 0 or len(name) > LONGEST:
            raise pickle.UnpicklingError(f"it holds more than {MOST} modules and tensors, or a name of over {LONGEST} letters")


def _table(module: InertObject, part: str) -> Mapping:
    found = module.state.get(part, {})
    return found if isinstance(found, dict) else {}


def _published(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the text transformer, if this is a whole CLIP: published encoders are without it."""
    whole = any(key.startswith("model.visual.") for key in entries)
    return {key: leaf for key, leaf in entries.items() if not (whole and key.startswith("model.transformer."))}
