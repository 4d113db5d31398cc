"""Files of statistics: safetensors with their provenance; symmetric matrices by their upper triangles, equal ones once.

Such a file of other programs, without provenance, is read, too: its entries are called as parameters or as modules.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.in_memory import tensors_in_memory
from src.checkpoints.reading import Checkpoint, metadata_of_file, open_files
from src.checkpoints.writing import save_file
from src.errors import UserError, collect, plural, raise_any, shorten
from src.merging.engine.statistics import FISHER_DIAG, SHAPES
from src.runtime.untrusted import parse_json
from src.state_dict import Lazy, StateDict, digest
from src.statistics.collector import Sums

KIND, CHECKPOINT, ALIASES, FACTS, COUNTS = "statistic", "checkpoint", "aliases", "facts", "counts"


@dataclass(frozen=True)
class Provenance:
    """What a statistic is of.

    kind: a key of SHAPES.
    checkpoint: the digest of the fine-tuned model.
    facts: further ones that decide its values (data, split, estimator, seed), as JSON values.
    """

    kind: str
    checkpoint: str
    facts: Mapping[str, object]


def save_statistic(statistic: Sums, path: Path, provenance: Provenance) -> None:
    """Write a statistic by parameter, float32, with what each of its means is taken over."""
    means, pack = statistic.means, statistic.kind != FISHER_DIAG
    packed = Lazy({key: _packed_outline(leaf) if pack else leaf for key, leaf in means.outline.items()},
                  lambda key: _packed(means[key]) if pack else means[key])  # fmt: skip
    metadata = {
        KIND: statistic.kind,
        CHECKPOINT: provenance.checkpoint,
        FACTS: json.dumps(provenance.facts, sort_keys=True),
        ALIASES: json.dumps(statistic.aliases),
        COUNTS: json.dumps(statistic.counts),
    }
    save_file(packed, path, metadata)


def provenance_of(path: Path) -> Provenance | None:
    """Return the provenance of a statistic that this program wrote; None of any other file."""
    metadata = metadata_of_file(path)
    if metadata.get(KIND) not in SHAPES:
        return None
    facts = parse_json(metadata.get(FACTS, "{}"), f"{path}: its provenance")
    return Provenance(metadata[KIND], metadata.get(CHECKPOINT, ""), facts if isinstance(facts, dict) else {})


class StatisticFile(Mapping[str, Tensor]):
    """A statistic on disk, by parameter; an entry is unpacked when it is read.

    kind: a key of SHAPES.
    provenance: None of a file of another program, whose kind follows from shapes, or from its name where these allow several.

    Raise UserError if the file cannot be read or is damaged, or nothing tells its kind.
    """

    def __init__(self, path: Path, shapes: StateDict):
        """shapes: the parameters of the model that it is of."""
        self._entries, self.provenance = open_files(path), provenance_of(path)
        self._names = _names(path, self._entries, shapes)
        self._is_packed = self.provenance is not None and self.provenance.kind != FISHER_DIAG
        stored = self._entries.outline
        is_whole = _is_triangle if self._is_packed else Tensor.is_floating_point
        if odd := [name for name, leaf in stored.items() if not is_whole(leaf)]:
            made = "collect it again" if self.provenance else "give a file of statistics, as collecting writes them"
            raise UserError(f"{path} holds what no statistic is, in {shorten(odd)}; {made}")
        self.outline = {key: _unpacked_outline(stored[name]) if self._is_packed else stored[name]
                        for key, name in self._names.items()}  # fmt: skip
        self.kind = self.provenance.kind if self.provenance else _kind(path, self.outline, shapes)

    def __getitem__(self, key: str) -> Tensor:
        leaf = self._entries[self._names[key]]
        return _unpacked(leaf) if self._is_packed else leaf

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names


def open_statistics(
    paths: Sequence[Path], checkpoints: Mapping[str, StateDict], shapes: StateDict
) -> dict[str, dict[str, StatisticFile]]:
    """Return the statistics in files by kind and task: of each kind one file a model, in the order of the models.

    checkpoints: the fine-tuned models by task, on disk or in memory.
    shapes: their parameters.

    Raise UserError, with all problems at once, for files that cannot be read, of other models, or too few or many of a kind.
    """
    problems: list[str] = []
    files: dict[str, list[tuple[Path, StatisticFile]]] = {}
    for path in paths:
        with collect(problems):
            file = StatisticFile(path, shapes)
            files.setdefault(file.kind, []).append((path, file))
    digest_of = cache(lambda task: digest(checkpoints[task].items()))
    for kind, found in files.items():
        if len(found) != len(checkpoints):
            names, files_of_kind = ", ".join(str(path) for path, _ in found), plural(len(found), "file")
            problems.append(f"{files_of_kind} of {kind} ({names}) for {plural(len(checkpoints), 'model')}; give one for each")
            continue
        for (path, file), (task, checkpoint) in zip(found, checkpoints.items()):
            if file.provenance and file.provenance.checkpoint != digest_of(task):
                problems.append(
                    f"{path} is of another model than {_place(checkpoint, task)}; give the files in the models' order"
                )
    raise_any(problems)
    return {kind: {task: file for task, (_, file) in zip(checkpoints, found)} for kind, found in files.items()}


def statistics_in_memory(
    statistics: Mapping[str, Mapping[str, StateDict]], tasks: Collection[str], device: torch.device
) -> dict[str, dict[str, StateDict]]:
    """Return statistics in memory, by kind and task, as methods read them, on a device.

    Raise UserError, with all problems at once, for kinds that there are not, and tasks that are not those of the models.
    """
    problems = [f"there are no statistics of kind {kind!r}; choose of {', '.join(SHAPES)}"
                for kind in statistics if kind not in SHAPES]  # fmt: skip
    problems += [
        f"the {kind} is a mapping of tasks ({', '.join(tasks)}) to state dicts; got one of {_listed(by_task)}"
        for kind, by_task in statistics.items()
        if not isinstance(by_task, Mapping) or set(by_task) != set(tasks)
    ]
    raise_any(problems)
    return {kind: {task: tensors_in_memory(f"the {kind} of {task}", entries, device) for task, entries in by_task.items()}
            for kind, by_task in statistics.items()}  # fmt: skip


def _listed(value: object) -> str:
    """Return the names in a mapping, or else what the value is, for a sentence."""
    return shorten(list(value)) if isinstance(value, Mapping) else f"type {type(value).__name__}"


def _place(model: StateDict, task: str) -> str:
    """Return a model's path and task, or the task alone of one in memory, for a sentence."""
    return f"{model.path} ({task})" if isinstance(model, Checkpoint) else task


def _names(path: Path, entries: StateDict, shapes: StateDict) -> dict[str, str]:
    """Return the name of the entry of each parameter in a file. Raise UserError if two entries are of one parameter."""
    names = {_parameter(key, shapes): key for key in entries}
    if len(names) < len(entries):
        both = [key for key in entries if key not in names.values()]
        raise UserError(f"{path} holds two statistics of one parameter, {shorten(both)}; remove one of them")
    aliases = parse_json(metadata_of_file(path).get(ALIASES, "{}"), f"{path}: its aliases")
    if not isinstance(aliases, dict) or not all(isinstance(name, str) and name in entries for name in aliases.values()):
        raise UserError(f"{path} names statistics that it does not hold; collect it again")
    return {**aliases, **names}


def _parameter(key: str, shapes: StateDict) -> str:
    """Return the parameter that an entry is of, which may be called as the module whose weight it is."""
    return f"{key}.weight" if key not in shapes and f"{key}.weight" in shapes else key


def _kind(path: Path, entries: StateDict, shapes: StateDict) -> str:
    """Return the kind of statistic that fits all parameters by its shapes."""
    common = {key: leaf for key, leaf in entries.items() if key in shapes}
    if not common:
        raise UserError(f"{path} is of no parameter of these models: it has {shorten(list(entries))}")
    kinds = [kind for kind, shape in SHAPES.items()
             if all(shape(shapes[key].shape) == tuple(leaf.shape) for key, leaf in common.items())]  # fmt: skip
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if kind in path.name]
    if len(kinds) != 1:
        key, leaf = next(iter(common.items()))
        raise UserError(
            f"nothing tells what {path} is: its {key} has shape {tuple(leaf.shape)}, the parameter {tuple(shapes[key].shape)}; "
            f"put one of {', '.join(SHAPES)} into its name"
        )
    return kinds[0]


def _packed(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix, row by row."""
    return matrix.cpu()[torch.triu_indices(*matrix.shape).unbind()]


def _packed_outline(leaf: Tensor) -> Tensor:
    size = leaf.shape[0] * (leaf.shape[0] + 1) // 2
    return torch.empty(size, dtype=torch.float32, device="meta")


def _unpacked(triangle: Tensor) -> Tensor:
    """Return the symmetric matrix of an upper triangle."""
    size = _side(triangle)
    matrix = torch.zeros(size, size, dtype=triangle.dtype)
    rows, columns = torch.triu_indices(size, size).unbind()
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


def _unpacked_outline(triangle: Tensor) -> Tensor:
    return torch.empty(_side(triangle), _side(triangle), dtype=triangle.dtype, device="meta")


def _is_triangle(leaf: Tensor) -> bool:
    """Whether an entry may be an upper triangle."""
    return leaf.is_floating_point() and leaf.ndim == 1 and _packed_outline(_unpacked_outline(leaf)).shape == leaf.shape


def _side(triangle: Tensor) -> int:
    """Return the number of rows of the matrix with this triangle."""
    return (math.isqrt(8 * triangle.numel() + 1) - 1) // 2
