"""From the classes that data names to the classes of a task, and the label of each."""

import re
from collections.abc import Sequence

from torch.utils.data import Dataset

from src.data.class_names import difference, labels_of, plain, synonyms, words
from src.data.task import Examples, Name
from src.data.vision.spec import DatasetSpec
from src.errors import UserError

Named = tuple[Sequence[Name], list[int] | None]


class Relabelled(Dataset):
    """Examples with `labels[label]` for each label."""

    def __init__(self, examples: Examples, labels: Sequence[int]):
        self._examples, self._labels = examples, labels

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int):
        image, label = self._examples[index]
        return image, self._labels[label]


def published_names(spec: DatasetSpec, given: Sequence[Name] | None) -> Sequence[Name] | None:
    """The class names of a row in label order, or the user's instead; None if only the data knows how many there are."""
    if spec.classes is None:
        return None
    if given is not None and len(given) != len(spec.classes):
        raise UserError(
            f"{spec.name}: {len(given)} classes are given, and it has {len(spec.classes)}; give a name for each, "
            f"in the order {', '.join(synonyms(name)[0] for name in spec.classes[:3])} ..."
        )
    return given or spec.classes


def named(spec: DatasetSpec, found: Sequence[str] | None, given: Sequence[Name] | None, where: str) -> Named:
    """Class names in label order, and the label of each class as the data at `where` counts them (None: the same).

    found: the names in the data, None if it has none; given: the user's names, instead of the row's.
    """
    names = published_names(spec, given)
    if names is not None:
        return names, None if found is None else _by_row(spec, found, where)
    if found is None:
        if given is None:
            raise UserError(
                f"{spec.name}: the data at {where} does not name its classes; give 'tasks.{spec.name}.classes=[NAME,...]'"
            )
        return given, None
    if given is None:
        return [words(name) for name in found], None
    if len(given) != len(found):
        raise UserError(f"{spec.name}: {len(given)} classes are given, and {where} has {len(found)}; give a name for each")
    return given, _by_given_names(spec, found, given)


def _by_row(spec: DatasetSpec, found: Sequence[str], where: str) -> list[int] | None:
    """By name and never by place: mirrors, unpacked archives and users' folders each have an order of their own."""
    if spec.count not in (None, len(found)):
        raise UserError(
            f"{spec.name}: {where} has {len(found)} classes and {spec.name} was published with {spec.count}; "
            f"mend it, or give it as a task of your own, under another name"
        )
    if spec.codes and all(re.fullmatch(spec.codes, name) for name in found) and len(set(found)) == len(found):
        order = sorted(found)
        return _unless_same([order.index(name) for name in found])
    known = [(*synonyms(name), *spec.aliases.get(synonyms(name)[0], ())) for name in spec.classes]
    labels = labels_of(found, known)
    if labels is None:
        raise UserError(
            f"{spec.name}: {where} has other classes than {spec.name} ({difference(found, known)}); "
            f"rename them, or give it as a task of your own, under another name"
        )
    return _unless_same(labels)


def _by_given_names(spec: DatasetSpec, found: Sequence[str], given: Sequence[Name]) -> list[int] | None:
    """A user's names may be the data's in another order, or others in the same order; never something between."""
    labels = labels_of(found, [synonyms(name) for name in given])
    if labels is not None:
        return _unless_same(labels)
    readers = {plain(name): place for place, names in enumerate(given) for name in synonyms(names)}
    for place, name in enumerate(found):
        if readers.get(plain(name), place) != place:
            raise UserError(
                f"{spec.name}: class {name} is number {place} of the data and number {readers[plain(name)]} of classes=; "
                f"give classes in the order {', '.join(found[:3])} ..."
            )
    return None


def _unless_same(labels: list[int]) -> list[int] | None:
    return None if labels == list(range(len(labels))) else labels
