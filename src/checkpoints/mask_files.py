"""TALL masks on disk: ours, which say what they were made of, and the published ones, which do not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from src.checkpoints.published import Published
from src.checkpoints.reading import TASKS, facts_in, open_checkpoint
from src.checkpoints.writing import save_file
from src.compact import Compact, pack, packed_size, parts_of, unpack
from src.errors import UserError
from src.pickles.mask_arrays import read_arrays
from src.state_dict import Lazy, StateDict, digest

KIND = MASKS = "masks"  # what such a file is, and the folder beside a model's checkpoints where they are
PUBLISHED = (".npy", ".pt")
SUM, TIES = {"method": "Sum", "k": 100}, {"method": "Ties", "k": 20, "agg": "sum"}  # the bases of published masks


@dataclass(frozen=True)
class MadeOf:
    """What masks depend on. base: of the multi-task vector; pretrained, finetuned: digests of the checkpoints."""

    base: dict
    pretrained: str
    finetuned: Mapping[str, str]

    def differences(self, saved: dict) -> list[str]:
        """Why masks that were made of `saved` do not fit."""
        if set(saved["finetuned"]) != set(self.finetuned):
            return [f"they are of the tasks {', '.join(sorted(saved['finetuned']))}"]
        found = []
        if saved["base"] != self.base:
            found.append(f"they are for the base {json.dumps(saved['base'])}, not {json.dumps(self.base)}")
        if saved["pretrained"] != self.pretrained:
            found.append("they were made with other pre-trained weights")
        other = [task for task, digest in self.finetuned.items() if saved["finetuned"][task] != digest]
        if other:
            found.append(f"they were made with other fine-tuned weights of {', '.join(other)}")
        return found


@dataclass(frozen=True)
class SavedMasks:
    """Packed masks by task and key. lambdas: by task, None where the file does not say; chosen_from: the grid they were
    chosen from on validation data, None if they were not."""

    path: Path
    masks: Mapping[str, StateDict]
    lambdas: Mapping[str, float] | None = None
    chosen_from: Sequence[float] | None = None

    @cached_property
    def digest(self) -> str:
        """Of all masks."""
        return digest((f"{task}/{key}", leaf) for task, packed in self.masks.items() for key, leaf in packed.items())


def save_masks(
    compact: Compact, folder: Path, made_of: MadeOf, lambdas: Mapping[str, float], chosen_from: Sequence[float] | None
) -> Path:
    """Write the masks of a compact form as one file, named by what they are of; returns its path."""
    facts = facts_of(made_of, lambdas, chosen_from)
    key = xxhash.xxh3_64_hexdigest(json.dumps([vars(made_of), chosen_from or dict(lambdas)], sort_keys=True).encode())
    path = folder / f"tall_mask_{len(lambdas)}task_{key[:8]}.safetensors"
    save_file(compact.flattened(), path, {"kind": KIND, "facts": json.dumps(facts)})
    return path


def facts_of(made_of: MadeOf, coefficients: Mapping[str, float], chosen_from: Sequence[float] | None) -> dict:
    """What is written beside masks."""
    known = None if None in coefficients.values() else dict(coefficients)
    return {**vars(made_of), "lambdas": known, "chosen_from": None if chosen_from is None else list(chosen_from)}


def open_masks(path: Path, made_of: MadeOf, shapes: StateDict) -> SavedMasks:
    """The masks in one of our files, in a bundle, or in a published file, for vectors of these shapes.

    Raises UserError with the reason if they do not fit. A published file says nothing of the checkpoints it was made
    with: of it, only the task names and the number of entries can be checked.
    """
    if not path.exists():
        raise UserError(f"there are no masks at {path}; check method.load_mask, or leave it out to make them")
    if path.suffix in PUBLISHED:
        return SavedMasks(path, _published(path, list(made_of.finetuned), shapes))
    file = path / TASKS if path.is_dir() else path
    opened, facts = open_checkpoint(file), facts_in(file)
    unsaid = [name for name in ("base", "pretrained", "lambdas", "chosen_from") if name not in facts]
    if unsaid:
        raise UserError(f"{path} does not say its {', '.join(unsaid)}, so its masks cannot be told to fit; make new ones")
    found = made_of.differences(facts)
    masks = Compact(shapes, parts_of(opened, list(facts["finetuned"]))).masks()
    if not masks and opened:
        found.append("it holds factors and no masks")
    if found:
        raise UserError(f"the masks in {path} do not fit: {'; '.join(found)}. Leave method.load_mask out to make new ones")
    return SavedMasks(path, {task: masks[task] for task in made_of.finetuned}, facts["lambdas"], facts["chosen_from"])


def find_masks(folder: Path, made_of: MadeOf, shapes: StateDict, chosen_from: Sequence[float]) -> SavedMasks:
    """The masks of a model that fit: those chosen from this grid, else any of ours, else published ones.

    folder: the model's own; published masks are found below it, and below other folders of its name beside it (see
    `Published`). Raises UserError with a reason for each file if none does.
    """
    published = [path for path in Published(folder.parent, folder.name).masks()
                 if made_of.base == (TIES if "use_ties" in path.name else SUM)]  # fmt: skip
    problems: list[str] = []
    for paths in (sorted((folder / MASKS).glob("*.safetensors")), published):
        fitting = []
        for path in paths:
            try:
                fitting.append(open_masks(path, made_of, shapes))
            except UserError as reason:
                problems += reason.problems
        for saved in sorted(fitting, key=lambda saved: saved.chosen_from != list(chosen_from)):
            return saved
    raise UserError(
        problems or f"there are no masks of {folder.name} under {folder.parent}; leave method.load_mask out to make them"
    )


def _published(path: Path, tasks: list[str], shapes: StateDict) -> dict[str, StateDict]:
    """Masks by task of a published file: a dict of arrays, each over all entries of a model."""
    held = read_arrays(path)
    arrays = {task if task in tasks or task.removesuffix("Val") in held else task.removesuffix("Val"): array
              for task, array in held.items()}  # fmt: skip
    if set(arrays) != set(tasks):
        raise UserError(f"the masks in {path} are of the tasks {', '.join(sorted(arrays))}, not {', '.join(sorted(tasks))}")
    count = sum(leaf.numel() for leaf in shapes.values())
    wrong = [f"an array of shape {array.shape} for {task}" for task, array in arrays.items() if not _fits(array, count)]
    if wrong:
        raise UserError(
            f"the masks in {path} are of another model: {', '.join(wrong)}, and {count} entries take {packed_size(count)}"
        )
    return {task: _cut(_bytes(arrays[task], count), shapes) for task in tasks}


def _cut(bits: Tensor, shapes: StateDict) -> Lazy:
    """One mask over all entries, packed, keys in alphabetical order, as a packed mask for each key."""
    starts, end = {}, 0
    for key in sorted(shapes):
        starts[key] = end
        end += shapes[key].numel()

    def entry(key: str) -> Tensor:
        start, length = starts[key], shapes[key].numel()
        first = start // 8
        near = bits[first : packed_size(start + length)]
        return pack(unpack(near, 8 * len(near))[start - 8 * first :][:length])

    sizes = {key: torch.empty(packed_size(leaf.numel()), dtype=torch.uint8, device="meta") for key, leaf in shapes.items()}
    return Lazy(sizes, entry)


def _fits(array: np.ndarray, count: int) -> bool:
    """Whether an array can be a mask of so many entries: packed, or unpacked with or without the bits that fill a byte."""
    unpacked = count <= array.size <= 8 * packed_size(count)
    packed = array.dtype == np.uint8 and array.size == packed_size(count)
    return array.ndim == 1 and array.dtype in (np.uint8, np.bool_) and (packed or unpacked)


def _bytes(array: np.ndarray, count: int) -> Tensor:
    """The mask packed, whichever way it was saved."""
    if array.dtype == np.bool_ or array.size != packed_size(count):
        array = np.packbits(array[:count].astype(bool))
    return torch.from_numpy(np.array(array))
