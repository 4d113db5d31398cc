"""Mapping of the classes that a dataset names to the classes and labels of a task."""

import re
from collections.abc import Sequence

from torch.utils.data import Dataset

from src.data.class_names import ClassName, difference, labels_of, match_key, require_text, synonyms, words
from src.data.task import Examples
from src.data.vision.spec import DatasetSpec
from src.errors import UserError, plural

# Class names in label order, and the task's label for each label of the data (None: the same).
ClassMapping = tuple[Sequence[ClassName], list[int] | None]


class RelabelledExamples(Dataset):
    """Examples with `labels[label]` for each label."""

    def __init__(self, examples: Examples, labels: Sequence[int]):
        self._examples, self._labels = examples, labels

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int):
        image, label = self._examples[index]
        return image, self._labels[label]


def published_names(spec: DatasetSpec, own_names: Sequence[ClassName] | None) -> Sequence[ClassName] | None:
    """Return the class names in label order; None if only the data says how many there are.

    own_names: the user's, instead of the published ones.

    Raise UserError if the user's are too many or too few.
    """
    if spec.classes is None:
        return None
    if own_names is not None and len(own_names) != len(spec.classes):
        raise UserError(
            f"{spec.name}: it has {plural(len(spec.classes), 'class')}, and classes= names {len(own_names)}; name "
            f"each, in the order {', '.join(synonyms(name)[0] for name in spec.classes[:3])} ..."
        )
    return own_names or spec.classes


def map_classes(
    spec: DatasetSpec, data_names: Sequence[str] | None, own_names: Sequence[ClassName] | None, where: str
) -> ClassMapping:
    """Return the class names of a task, and the label of each class of its data.

    data_names: those in the data, in the order of its labels; None if it has none.
    own_names: the user's, instead of the published ones.
    where: the data, for sentences.

    Raise UserError if the names do not tell which class is which.
    """
    require_text(data_names or (), where)
    names = published_names(spec, own_names)
    if names is not None:
        return names, None if data_names is None else _labels_by_spec(spec, data_names, where)
    if data_names is None:
        if own_names is None:
            raise UserError(
                f"{spec.name}: the data at {where} does not name its classes; give 'tasks.{spec.name}.classes=[NAME,...]'"
            )
        return own_names, None
    if own_names is None:
        return [words(name) for name in data_names], None
    if len(own_names) != len(data_names):
        raise UserError(
            f"{spec.name}: {where} has {plural(len(data_names), 'class')}, and classes= names {len(own_names)}; name each"
        )
    return own_names, _labels_by_own_names(spec, data_names, own_names)


def _labels_by_spec(spec: DatasetSpec, data_names: Sequence[str], where: str) -> list[int] | None:
    """Return labels by name, never by position: copies, unpacked archives and users' folders each have an order of their own.

    Raise UserError if there are more, fewer or other classes than were published.
    """
    if spec.class_count not in (None, len(data_names)):
        raise UserError(
            f"{spec.name}: {where} has {plural(len(data_names), 'class')} and {spec.name} was published with {spec.class_count}; "
            f"fix it, or give it as a task of your own, under another name"
        )
    if spec.codes and all(re.fullmatch(spec.codes, name) for name in data_names) and len(set(data_names)) == len(data_names):
        order = sorted(data_names)
        return _unless_same([order.index(name) for name in data_names])
    classes = [(*synonyms(name), *spec.aliases.get(synonyms(name)[0], ())) for name in spec.classes]
    labels = labels_of(data_names, classes)
    if labels is None:
        raise UserError(
            f"{spec.name}: {where} has other classes than {spec.name} ({difference(data_names, classes)}); "
            f"rename them, or give it as a task of your own, under another name"
        )
    return _unless_same(labels)


def _labels_by_own_names(spec: DatasetSpec, data_names: Sequence[str], own_names: Sequence[ClassName]) -> list[int] | None:
    """Return labels by a user's names, which are the data's in another order, or others in the same order.

    Raise UserError if they are something in between.
    """
    labels = labels_of(data_names, [synonyms(name) for name in own_names])
    if labels is not None:
        return _unless_same(labels)
    label_of = {match_key(variant): label for label, name in enumerate(own_names) for variant in synonyms(name)}
    for number, name in enumerate(data_names):
        label = label_of.get(match_key(name), number)
        if label != number:
            raise UserError(
                f"{spec.name}: class {name} is number {number} of the data and number {label} of classes=; "
                f"give classes in the order {', '.join(data_names[:3])} ..."
            )
    return None


def _unless_same(labels: list[int]) -> list[int] | None:
    return None if labels == list(range(len(labels))) else labels
