"""From the classes that data names to the classes of a task, and the label of each."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from src.data.names import difference, labels_of, plain, synonyms
from src.data.row import Row
from src.data.task import Examples, Name
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


def named(row: Row, found: Sequence[str] | None, given: Sequence[Name] | None, where: str) -> Named:
    """Class names in label order, and the label of each class as the data at `where` counts them (None: the same).

    found: the names in the data, None if it has none; given: the user's names, instead of the row's.
    """
    names, labels = _without_given(row, found, given, where)
    if given is None:
        return names, labels
    if len(given) != len(names):
        raise UserError(f"{row.name}: {len(given)} classes are given, and {where} has {len(names)}; give a name for each")
    if row.count is not None or found is None:
        return given, labels
    return given, _by_given_names(row, found, given)


def _without_given(row: Row, found: Sequence[str] | None, given: Sequence[Name] | None, where: str) -> Named:
    if found is None:
        known = row.classes if row.classes is not None else given
        if known is None:
            raise UserError(f"{row.name}: the data at {where} does not name its classes; give tasks.{row.name}.classes=[...]")
        return known, None
    if row.count not in (None, len(found)):
        raise UserError(
            f"{row.name}: {where} has {len(found)} classes and {row.name} was published with {row.count}; "
            f"mend it, or give it as a task of your own, under another name"
        )
    if row.codes:
        return row.classes, None
    if row.classes is None:
        # a space would sort before what an underscore sorts after, and mirrors have either
        order = sorted(found, key=lambda name: name.replace(" ", "_")) if row.alphabetical else list(found)
        return [row.spoken(name) for name in order], _unless_same([order.index(name) for name in found])
    aliases = row.aliases or [()] * len(row.classes)
    known = [(*synonyms(name), *synonyms(alias)) for name, alias in zip(row.classes, aliases)]
    labels = labels_of(found, known)
    if labels is None:
        raise UserError(
            f"{row.name}: {where} has other classes than {row.name} ({difference(found, known)}); "
            f"rename them, or give it as a task of your own, under another name"
        )
    return row.classes, _unless_same(labels)


def _by_given_names(row: Row, found: Sequence[str], given: Sequence[Name]) -> list[int] | None:
    """A user's names may be the data's in another order, or others in the same order; never something between."""
    labels = labels_of(found, [synonyms(name) for name in given])
    if labels is not None:
        return _unless_same(labels)
    places = {plain(name): place for place, names in enumerate(given) for name in synonyms(names)}
    for place, name in enumerate(found):
        if places.get(plain(name), place) != place:
            raise UserError(
                f"{row.name}: class {name} is number {place} of the data and number {places[plain(name)]} of classes=; "
                f"give classes in the order {', '.join(found[:3])} ..."
            )
    return None


def _unless_same(labels: list[int]) -> list[int] | None:
    return None if labels == list(range(len(labels))) else labels
