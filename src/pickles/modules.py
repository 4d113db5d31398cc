"""Read the tensors of pickled modules without running, importing or even having the code of their classes.

Heads and older encoders were saved as objects. Every name such a pickle uses stands here for something inert: a class of
a module becomes an object that keeps its attributes, tensors are rebuilt by us, and any other name is refused.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from src.pickles.stand_ins import STAND_INS, InertObject, PendingTensor, ScriptModule
from src.pickles.torch_format import PickledStorage, read_torch_file
from src.pickles.unpickler import InertUnpickler

# Where the classes of published modules, and of the preprocessing saved with them, are defined. None of it is imported.
PACKAGES = ("torch.nn.", "torchvision.transforms.", "open_clip.", "clip.", "src.")
SCRIPTED = "__torch__."  # of classes in a TorchScript archive
# A few bytes can nest dicts without end, name one child without end, and repeat a name in all names below it.
MAX_DEPTH = 4  # of dicts in dicts: {"model": {"weight": ...}} has 1
MAX_ENTRIES = 100_000  # modules and tensors in one file
MAX_NAME_LENGTH = 1000
MOST_CONTEXT = 4096  # positions of a causal mask
OWN = ("_parameters", "_buffers", "_modules")  # the attributes of a module that its state dict is made of


class Unpickled(NamedTuple):
    """What is in a file.

    content: what torch.save wrote, with the state dict of each module in its place.
    dropped: names of what the file holds and `content` does not: attributes of modules, state dicts and tensors, programs.
    """

    content: object
    dropped: list[str]


def read_modules(path: Path) -> Unpickled:
    """Return what torch.save wrote, with each module in it replaced by its state dict.

    Raise UserError naming what the file asks to call, if that is anything but what rebuilds modules and tensors. An
    unreadable file raises whatever a damaged pickle happens to raise.
    """
    converter = _Converter()
    content = converter.convert(read_torch_file(path, lambda file, storages: _ModuleUnpickler(file, path, storages).load()))
    return Unpickled(content, converter.dropped)


class _ModuleUnpickler(InertUnpickler):
    """Reads stand-ins for modules and tensors; adds the storages that tensors need to `storages`, by key."""

    def __init__(self, file: BinaryIO, path: Path, storages: dict[str, PickledStorage]):
        advice = (
            "Do not use a file you do not trust; of one you do, save the state dict alone: torch.save(model.state_dict(), ...)"
        )
        super().__init__(file, _stand_in, (f"{path} holds more than tensors and modules", advice))
        self._storages = storages

    def persistent_load(self, pid: object) -> object:
        """Return the storage, or in the legacy format the class, that a persistent id refers to."""
        if isinstance(pid, tuple) and pid[:1] == ("module",) and pid[1] is InertObject:
            return InertObject  # the legacy format has a module's source code beside its class
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("it refers to something outside that is no storage")
        _, kind, key, _, count, *view = pid
        if view not in ([], [None]):
            raise pickle.UnpicklingError("it holds a view of a storage, as torch wrote before 0.4")
        storage = PickledStorage(key, kind, count)
        first = self._storages.setdefault(key, storage)
        if (first.dtype, first.count) != (storage.dtype, storage.count):
            raise pickle.UnpicklingError(f"it names storage {key} twice, with other dtypes or lengths")
        return first


def _stand_in(module: str, name: str) -> object:
    if f"{module}.".startswith(SCRIPTED):
        return ScriptModule
    return STAND_INS.get((module, name)) or (InertObject if f"{module}.".startswith(PACKAGES) else None)


class _Converter:
    """Converts the stand-ins of one file to tensors and state dicts, each once.

    MAX_ENTRIES bounds the whole file: a few hundred bytes can share children so that each level doubles the one above.
    """

    def __init__(self):
        self._remaining = MAX_ENTRIES
        self._results: dict[tuple[int, int], object] = {}
        self.dropped: list[str] = []

    def convert(self, value: object, depth: int = 0) -> object:
        if not isinstance(value, PendingTensor | InertObject | dict):
            return value
        if (id(value), depth) not in self._results:
            self._results[id(value), depth] = self._convert(value, depth)
        return self._results[id(value), depth]

    def _convert(self, value: PendingTensor | InertObject | dict, depth: int) -> object:
        if isinstance(value, PendingTensor):
            return self._tensor(value)
        if isinstance(value, InertObject):
            return dict(self._entries(value, ""))
        self.dropped += [f"the attribute {name}" for name in getattr(value, "attributes", ())]
        return {key: self.convert(child, depth + 1) for key, child in value.items()} if depth <= MAX_DEPTH else value

    def _tensor(self, pending: PendingTensor) -> Tensor:
        self.dropped += [f"the attribute {name} of a tensor" for name in pending.attributes]
        return pending.to_tensor()

    def _entries(self, module: InertObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the entries of a module's state dict, with the names and in the order of its own state_dict()."""
        self._count(prefix)
        is_script = isinstance(module, ScriptModule)
        own = (PendingTensor, ScriptModule) if is_script else ()
        self.dropped += [f"{prefix}{name}" for name, value in module.state.items()
                         if name not in OWN and not isinstance(value, own) and _holds_tensor(value)]  # fmt: skip
        if is_script:
            self.dropped += ["its program (TorchScript)"] * (not prefix)
            yield from self._script_entries(module, prefix)
            return
        non_persistent = module.state.get("_non_persistent_buffers_set")
        non_persistent = non_persistent if isinstance(non_persistent, set | frozenset) else ()
        for attribute in ("_parameters", "_buffers"):
            for name, leaf in _dict_of(module, attribute).items():
                if isinstance(leaf, PendingTensor) and attribute == "_buffers" and name in non_persistent:
                    self.dropped += [f"{prefix}{name}"] * (not _is_causal_mask(leaf.to_tensor()))
                elif isinstance(leaf, PendingTensor):
                    self._count(name)
                    yield f"{prefix}{name}", self._tensor(leaf)
        for name, child in _dict_of(module, "_modules").items():
            if isinstance(child, InertObject):
                yield from self._entries(child, f"{prefix}{name}.")

    def _script_entries(self, module: ScriptModule, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the entries of a scripted module, whose parameters, buffers and modules are plain attributes."""
        for name, leaf in module.state.items():
            if isinstance(leaf, PendingTensor):
                self._count(name)
                yield f"{prefix}{name}", self._tensor(leaf)
        for name, child in module.state.items():
            if isinstance(child, ScriptModule):
                yield from self._entries(child, f"{prefix}{name}.")

    def _count(self, name: str) -> None:
        """Count one module or tensor. Raise UnpicklingError if it is one too many, or its name is too long."""
        self._remaining -= 1
        if self._remaining < 0 or len(name) > MAX_NAME_LENGTH:
            raise pickle.UnpicklingError(
                f"it holds more than {MAX_ENTRIES} modules and tensors, or a name of over {MAX_NAME_LENGTH} letters"
            )


def _is_causal_mask(leaf: Tensor) -> bool:
    """Whether a buffer is the mask of causal attention, which its size alone says."""
    is_square = leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1] <= MOST_CONTEXT and leaf.is_floating_point()
    return is_square and torch.equal(leaf, torch.full_like(leaf, -torch.inf).triu_(1))


def _holds_tensor(value: object) -> bool:
    """Whether an attribute that is no tensor and no module itself holds a tensor, however deep."""
    values, seen = [value], set()
    while values:
        value = values.pop()
        if isinstance(value, PendingTensor):
            return True
        if isinstance(value, dict | list | tuple | InertObject) and id(value) not in seen:
            seen.add(id(value))
            values += (
                value.state.values() if isinstance(value, InertObject) else value.values() if isinstance(value, dict) else value
            )
    return False


def _dict_of(module: InertObject, attribute: str) -> Mapping:
    value = module.state.get(attribute, {})
    return value if isinstance(value, dict) else {}
