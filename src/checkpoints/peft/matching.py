"""The one naming under which an adapter fits a model: its own names, else one prefix more or one less."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from src.checkpoints.peft.config import WAY_OUT
from src.checkpoints.peft.fit import Fit, fitted
from src.checkpoints.peft.reading import Adapter
from src.errors import UserError, shorten
from src.state_dict import StateDict


class Renaming(NamedTuple):
    """drop: what goes from the start of each name; add: what comes there."""

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str | None:
        return self.add + name.removeprefix(self.drop) if name.startswith(self.drop) else None


def best_fit(adapter: Adapter, shapes: StateDict) -> Fit:
    """Raises UserError if there is none, with what keeps the nearest from fitting, and if there are several."""
    children: dict[str, list[str]] = {}
    for key in shapes:
        children.setdefault(_start(key), []).append(key.removeprefix(_start(key)))
    longest = max([*(layer.start for layer in adapter.layers), *map(_start, adapter.replaced)], key=len)
    fits = {renaming: fitted(adapter, shapes, children, renaming) for renaming in _renamings(longest, children)}
    whole = {renaming: fit for renaming, fit in fits.items() if not fit.missing and not fit.misfits}
    if len(whole) == 1 or Renaming() in whole:
        return next(iter(whole.values()))
    if whole:
        raise UserError(
            f"{adapter.path}: {longest[:-1]} may be any of {len(whole)} layers of the pre-trained model, "
            f"{shorten([renaming(longest)[:-1] for renaming in whole])}; {WAY_OUT}"
        )
    nearest = min(fits.values(), key=lambda fit: len(fit.missing))
    problems = [f"{adapter.path} does not fit the pre-trained model: {said}" for said in nearest.misfits[:3]]
    if len(nearest.misfits) > 3:
        problems.append(f"{adapter.path} does not fit {len(nearest.misfits) - 3} entries more; give the model it is of")
    if nearest.missing:
        problems.append(
            f"{adapter.path} changes {shorten(nearest.missing)}, and the pre-trained model has no such names, with no one prefix "
            f"more or less; it has {shorten(list(shapes))}; give the model that the adapter was trained on, or {WAY_OUT}"
        )
    raise UserError(problems)


def _start(name: str) -> str:
    return name[: name.rfind(".") + 1]


def _renamings(longest: str, starts: Iterable[str]) -> Iterator[Renaming]:
    """The adapter's own names come first. longest: a start of its names; starts: those of the model's."""
    yield Renaming()
    yield from (Renaming(add=start.removesuffix(longest)) for start in starts if longest and start.endswith(f".{longest}"))
    yield from (Renaming(drop=longest[: dot.end()]) for dot in re.finditer(r"\.", longest))
