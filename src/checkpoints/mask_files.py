"""TALL masks on disk: files of this program, which record their provenance, and published ones, which do not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from src.checkpoints.bundles import TASKS, facts_of_file, unfit_entries
from src.checkpoints.reading import open_files
from src.checkpoints.writing import save_file
from src.compact.form import Compact, parts_of
from src.compact.packing import pack, packed_size, unpack
from src.errors import UserError, shorten
from src.pickles.mask_arrays import read_arrays
from src.runtime.files import expand_path
from src.state_dict import Lazy, StateDict, digest
from src.validation import is_number

FOLDER = "masks"  # beside a model's checkpoints
KIND = "masks"  # what a file of masks says it is
PUBLISHED = (".npy", ".pt")
REMEDY = "name others in method.load_mask=PATH, or leave it out to make them"
REMEDY_OF_FILES = (
    "name others in method.load_mask=PATH, or leave it out and give the lambda of new ones: specify_lambda for tall_mask, "
    "method.mask_lambda for consensus"
)
SUM, TIES = {"method": "Sum", "k": 100}, {"method": "Ties", "k": 20, "agg": "sum"}  # the bases of published masks


@dataclass(frozen=True)
class MaskProvenance:
    """What masks were computed from: the base method and the weights.

    base: description of the method whose multi-task vector they select from.
    pretrained: digest of the pre-trained weights.
    finetuned: digests of the fine-tuned weights, by task.
    """

    base: dict
    pretrained: str
    finetuned: Mapping[str, str]

    def differences(self, saved: dict) -> list[str]:
        """Return why masks with the facts `saved` do not fit, a sentence each."""
        if set(saved["finetuned"]) != set(self.finetuned):
            return [f"they are of the tasks {', '.join(sorted(saved['finetuned']))}"]
        problems = []
        if saved["base"] != self.base:
            problems.append(f"they are for the base {json.dumps(saved['base'])}, not {json.dumps(self.base)}")
        if saved["pretrained"] != self.pretrained:
            problems.append("they were made with other pre-trained weights")
        others = [task for task, digest in self.finetuned.items() if saved["finetuned"][task] != digest]
        if others:
            problems.append(f"they were made with other fine-tuned weights of {', '.join(others)}")
        return problems

    def facts(self, lambdas: Mapping[str, float | None], grid: Sequence[float] | None) -> dict:
        """Return the facts to write beside masks, as JSON values.

        grid: the lambdas that these were chosen from on validation data; None if they were not.
        """
        all_lambdas = None if None in lambdas.values() else dict(lambdas)
        return {**vars(self), "lambdas": all_lambdas, "chosen_from": None if grid is None else list(grid)}


@dataclass(frozen=True)
class SavedMasks:
    """Masks read from a file, with their lambdas.

    masks: packed, by task and key.
    lambdas: by task; None where the file does not say.
    chosen_from: grid that the lambdas were chosen from on validation data; None if they were not.
    """

    path: Path
    masks: Mapping[str, StateDict]
    lambdas: Mapping[str, float] | None = None
    chosen_from: Sequence[float] | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of all masks."""
        return digest((f"{task}/{key}", leaf) for task, packed in self.masks.items() for key, leaf in packed.items())

    def __str__(self) -> str:
        if self.lambdas is None:
            return f"{self.path} (lambda unknown)"
        return f"{self.path} (lambda {', '.join(f'{number:.4g} {task}' for task, number in self.lambdas.items())})"


def mask_path(folder: Path, provenance: MaskProvenance, lambdas: Mapping[str, float], grid: Sequence[float] | None) -> Path:
    """Return the path of a mask file in `folder`, named after a hash of its provenance and its grid, or else its lambdas."""
    key = xxhash.xxh3_64_hexdigest(json.dumps([vars(provenance), grid or dict(lambdas)], sort_keys=True).encode())
    return folder / f"tall_mask_{len(lambdas)}task_{key[:8]}.safetensors"


def save_masks(
    compact: Compact, folder: Path, provenance: MaskProvenance, lambdas: Mapping[str, float], grid: Sequence[float] | None
) -> Path:
    """Write the masks of a compact form as one file; return its path."""
    path = mask_path(folder, provenance, lambdas, grid)
    save_file(compact.flattened(), path, {"kind": KIND, "facts": json.dumps(provenance.facts(lambdas, grid))})
    return path


@dataclass(frozen=True)
class MaskFiles:
    """Where the masks of a model are.

    folder: of those made here.
    published: files of others, of this model.
    """

    folder: Path
    published: Sequence[Path] = ()


def load_masks(
    load: bool | str | None, files: MaskFiles | None, provenance: MaskProvenance, shapes: StateDict, grid: Sequence[float]
) -> SavedMasks | None:
    """Return the masks saved earlier that are to be used; None where they are to be made.

    load: True for any of `files` that fit, a path for its own, None for those chosen from `grid` if there are any,
        False for none.
    files: where the model's are; None where there is no model.

    Raise UserError with the reason where the masks asked for do not fit.
    """
    if load is False or (load is None and files is None):
        return None
    if load is True and files is None:
        raise UserError(
            "method.load_mask=True looks beside a model's checkpoints; with model=files give their path: method.load_mask=PATH"
        )
    try:
        if isinstance(load, str):
            return open_masks(expand_path(load), provenance, shapes)
        masks = find_masks(files, provenance, shapes, grid)
    except UserError as error:
        if load is None:
            return None
        *others, last = error.problems
        raise UserError([*others, f"{last}; {REMEDY if files else REMEDY_OF_FILES}"]) from error
    return masks if load or masks.chosen_from == list(grid) else None


def open_masks(path: Path, provenance: MaskProvenance, shapes: StateDict) -> SavedMasks:
    """Return the masks in one of our files, in a bundle, or in a published file, for vectors of these shapes.

    A published file says nothing of the checkpoints it was made with: of it, only the task names and the number of
    entries can be checked.

    Raise UserError with the reason if they do not fit.
    """
    if not path.exists():
        raise UserError(f"there are no masks at {path}")
    if path.suffix in PUBLISHED:
        return SavedMasks(path, _published(path, list(provenance.finetuned), shapes))
    file = path / TASKS if path.is_dir() else path
    entries, facts = open_files(file), facts_of_file(file)
    missing = [name for name in ("base", "pretrained", "lambdas", "chosen_from") if name not in facts]
    if missing:
        raise UserError(f"{path} does not say its {', '.join(missing)}, so nothing shows that its masks fit")
    if not _are_facts(facts):
        raise UserError(f"{path} says in its header what this program never writes, so its masks may be anyone's")
    problems = provenance.differences(facts)
    compact = Compact(shapes, parts_of(entries, list(facts["finetuned"])))
    masks = compact.masks()
    if not masks and entries:
        problems.append("it holds factors and no masks")
    unfit = unfit_entries(compact)
    if unfit:
        problems.append(f"entries are of another model or malformed ({shorten(unfit)})")
    if problems:
        raise UserError(f"the masks in {path} do not fit: {'; '.join(problems)}")
    return SavedMasks(path, {task: masks[task] for task in provenance.finetuned}, facts["lambdas"], facts["chosen_from"])


def _are_facts(facts: dict) -> bool:
    """Whether the facts in a header, which has all of them, are as `MaskProvenance.facts` makes them."""
    lambdas, grid = facts["lambdas"], facts["chosen_from"]
    has_lambdas = isinstance(lambdas, dict) and set(lambdas) == set(facts["finetuned"]) and all(map(is_number, lambdas.values()))
    has_grid = isinstance(grid, list) and all(map(is_number, grid))
    texts = [facts["pretrained"], *facts["finetuned"].values()]
    is_identified = isinstance(facts["base"], dict) and all(isinstance(text, str) for text in texts)
    return is_identified and (lambdas is None or has_lambdas) and (grid is None or has_grid)


def find_masks(files: MaskFiles, provenance: MaskProvenance, shapes: StateDict, grid: Sequence[float]) -> SavedMasks:
    """Return the masks of a model that fit: those chosen from this grid, else any of ours, else published ones.

    Raise UserError with a reason for each file if none fits.
    """
    published = [path for path in files.published if provenance.base == (TIES if "use_ties" in path.name else SUM)]
    problems: list[str] = []
    for paths in (sorted(files.folder.glob("*.safetensors")), published):
        fitting = []
        for path in paths:
            try:
                fitting.append(open_masks(path, provenance, shapes))
            except UserError as error:
                problems += error.problems
        if fitting:
            return min(fitting, key=lambda saved: saved.chosen_from != list(grid))  # the first of equals
    raise UserError(problems or f"there are no masks in {files.folder}, and no published ones beside it")


def _published(path: Path, tasks: list[str], shapes: StateDict) -> dict[str, StateDict]:
    """Return the masks by task of a published file: a dict of arrays, each over all entries of a model."""
    by_name = read_arrays(path)
    arrays = {task if task in tasks or task.removesuffix("Val") in by_name else task.removesuffix("Val"): array
              for task, array in by_name.items()}  # fmt: skip
    if set(arrays) != set(tasks):
        raise UserError(f"the masks in {path} are of the tasks {', '.join(sorted(arrays))}, not {', '.join(sorted(tasks))}")
    count = sum(leaf.numel() for leaf in shapes.values())
    wrong = [f"an array of shape {array.shape} for {task}" for task, array in arrays.items() if not _fits(array, count)]
    if wrong:
        right = f"{count:,} bits take {packed_size(count):,} bytes"
        raise UserError(f"the masks in {path} are of another model: {', '.join(wrong)}, where {right}")
    return {task: _split_by_key(_bytes(arrays[task], count), shapes) for task in tasks}


def _split_by_key(bits: Tensor, shapes: StateDict) -> Lazy:
    """Return one mask over all entries, packed, keys in alphabetical order, as a packed mask for each key."""
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
    """Whether an array can be a mask of `count` entries: packed, or unpacked with or without the bits that fill a byte."""
    unpacked = count <= array.size <= 8 * packed_size(count)
    packed = array.dtype == np.uint8 and array.size == packed_size(count)
    return array.ndim == 1 and array.dtype in (np.uint8, np.bool_) and (packed or unpacked)


def _bytes(array: np.ndarray, count: int) -> Tensor:
    """Return the mask packed, whichever way it was saved."""
    if array.dtype == np.bool_ or array.size != packed_size(count):
        array = np.packbits(array[:count].astype(bool))
    return torch.from_numpy(np.array(array))
