"""Read the tensors of pickled modules without running, importing or even having the code of their classes.

Heads and older encoders were saved as objects. Every name such a pickle uses stands here for something inert: a class of
a module becomes an object that keeps its attributes, tensors are rebuilt by us, and any other name is refused.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

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
OWN = ("_parameters", "_buffers", "_modules")  # the attributes of a module that its state dict is made of


def read_modules(path: Path) -> object:
    """Return what torch.save wrote, with each module in it replaced by its state dict, a `ModuleEntries`.

    Raise UserError naming what the file asks to call, if that is anything but what rebuilds modules and tensors. An
    unreadable file raises whatever a damaged pickle happens to raise.
    """
    return _Converter().convert(read_torch_file(path, lambda file, storages: _ModuleUnpickler(file, path, storages).load()))


class ModuleEntries(dict):
    """The state dict of a module.

    others: names of attributes that hold tensors and are in no state dict.
    """

    __slots__ = ("others",)

    def __init__(self, entries: Iterable[tuple[str, Tensor]], others: list[str]):
        super().__init__(entries)
        self.others = others


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
        self._others: list[str] = []  # of the module that is being converted

    def convert(self, value: object, depth: int = 0) -> object:
        if not isinstance(value, PendingTensor | InertObject | dict):
            return value
        if (id(value), depth) not in self._results:
            self._results[id(value), depth] = self._convert(value, depth)
        return self._results[id(value), depth]

    def _convert(self, value: PendingTensor | InertObject | dict, depth: int) -> object:
        if isinstance(value, PendingTensor):
            return value.to_tensor()
        if isinstance(value, InertObject):
            self._others = []
            return ModuleEntries(self._entries(value, ""), self._others)
        return {key: self.convert(child, depth + 1) for key, child in value.items()} if depth <= MAX_DEPTH else value

    def _entries(self, module: InertObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the entries of a module's state dict, with the names and in the order of its own state_dict()."""
        self._count(prefix)
        is_script = isinstance(module, ScriptModule)
        self._others += [f"{prefix}{name}" for name, value in module.state.items()
                         if name not in OWN and not (is_script and isinstance(value, PendingTensor | ScriptModule))
                         and _holds_tensor(value)]  # fmt: skip
        if is_script:
            yield from self._script_entries(module, prefix)
            return
        non_persistent = module.state.get("_non_persistent_buffers_set")
        non_persistent = non_persistent if isinstance(non_persistent, set | frozenset) else ()
        for attribute in ("_parameters", "_buffers"):
            for name, leaf in _dict_of(module, attribute).items():
                if isinstance(leaf, PendingTensor) and not (attribute == "_buffers" and name in non_persistent):
                    self._count(name)
                    yield f"{prefix}{name}", leaf.to_tensor()
        for name, child in _dict_of(module, "_modules").items():
            if isinstance(child, InertObject):
                yield from self._entries(child, f"{prefix}{name}.")

    def _script_entries(self, module: ScriptModule, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the entries of a scripted module, whose parameters, buffers and modules are plain attributes."""
        for name, leaf in module.state.items():
            if isinstance(leaf, PendingTensor):
                self._count(name)
                yield f"{prefix}{name}", leaf.to_tensor()
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
