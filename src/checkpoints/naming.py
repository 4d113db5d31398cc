"""One model under other names: with prefixes that wrappers add, one prefix more or less, with or without a text tower.

Weights are compared with the pre-trained model by name. The same architecture goes by several spellings: DistributedDataParallel,
FSDP, torch.compile and activation checkpointing put a component into every name, Lightning and heads around a model a
prefix before it, published encoders of CLIP lack parts of the text tower, and libraries add and drop buffers.
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from src.errors import shorten
from src.state_dict import Lazy, StateDict, is_weight, outline, renamed

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_module")
# Of a CLIP: what is no image tower, which fine-tuned encoders have, lack, or have beside a head.
IMAGE_TOWER = re.compile(r"(model\.)?(visual|vision_model)\..+")
TEXT_BLOCKS = re.compile(r"(model\.)?(transformer\.resblocks|text|text_model)\..+")  # there as a whole, or not at all
TEXT_ENTRIES = re.compile(
    r"(model\.)?((token_embedding|ln_final)\..+|"
    r"positional_embedding|text_projection(\.weight)?|logit_scale|logit_bias|input_resolution|context_length|vocab_size)"
)
BUFFERS = re.compile(r"(.*\.)?(inv_freq|masked_bias)")  # floating-point ones that libraries have stopped saving
HEAD = re.compile(r"classification_head\..+")
MOST_COMPONENTS = 32  # of a name, before which prefixes are looked for
MOST_PREFIXES = 8  # of one side, that are tried
MOST_TIED = 4  # matrices that are compared with others
SAMPLE = 500  # names that tell which prefix fits best


@dataclass(frozen=True)
class Spelling:
    """Weights under the names of another model.

    entries: by these names where it has them, by their own where it does not.
    notes: sentences on what was done about the names, without a subject.
    is_filled: whether entries that the weights lack come from the other model.
    """

    entries: StateDict
    notes: list[str] = field(default_factory=list)
    is_filled: bool = False


def spelled_like(weights: StateDict, model: StateDict) -> Spelling:
    """Return weights under the names that `model` has.

    Names that fit as they are stay, all of them; else wrappers' components are ignored, and one prefix may be more, less or
    another, the one with which most names and shapes fit. Entries that either side may lack (a CLIP's text tower,
    buffers without floating values) are taken from `model`, or left out; a note says so. Any others that differ are
    left for the caller to refuse.
    """
    shapes, own = outline(model), outline(weights)
    if shapes.keys() == own.keys():
        return Spelling(weights)
    theirs, ours = _unwrapped(shapes), _unwrapped(own)
    drop, add = _best_prefix(ours, own, theirs, shapes)
    spelled = _exchanged(ours, drop, add)
    if not any(name in theirs for name in spelled):
        return Spelling(weights)
    table = {theirs.get(name, name): key for name, key in spelled.items()}
    notes = []
    if wrappers := sorted({part for name, key in [*ours.items(), *theirs.items()] if name != key
                           for part in key.split(".") if part in WRAPPERS}):  # fmt: skip
        notes.append(f"read without regard to {' and '.join(wrappers)} in names, which wrappers add")
    if drop or add:
        notes.append(f"read {_change(drop, add)} its names, as the pre-trained model's are")
    is_clip = any(map(IMAGE_TOWER.fullmatch, shapes)) and any(map(IMAGE_TOWER.fullmatch, table))
    we_have, they_have = (any(map(TEXT_BLOCKS.fullmatch, names)) for names in (table, shapes))
    extra = dict.fromkeys(
        name for name in table if name not in shapes and _is_optional(name, own[table[name]], is_clip, they_have)
    )
    missing = dict.fromkeys(key for key in shapes if key not in table and _is_optional(key, shapes[key], is_clip, we_have))
    tied = _twins([key for key in shapes if key not in table and key not in missing], shapes, model.__getitem__, table)
    surplus = [name for name in table if name not in shapes and name not in extra]
    extra |= _twins(surplus, {name: own[key] for name, key in table.items()}, lambda name: weights[table[name]], shapes)
    if tied:
        notes.append(f"has no {shorten(tied)}, taken from its {shorten(list(tied.values()))}, as the pre-trained model ties them")
    table |= {key: table[twin] for key, twin in tied.items()}
    if extra:
        notes.append(f"read without its {shorten(extra)}, which the pre-trained model has not")
    if missing:
        notes.append(f"has no {shorten(missing)}, taken from the pre-trained model")
    kept = {name: key for name, key in table.items() if name not in extra}
    order = {name: own[kept[name]] if name in kept else shapes[name] for name in shapes if name in kept or name in missing}
    order |= {name: own[key] for name, key in kept.items() if name not in order}
    return Spelling(Lazy(order, lambda name: weights[kept[name]] if name in kept else model[name]), notes, bool(missing))


def without_wrappers(weights: StateDict) -> StateDict:
    """Return weights under their names without the components that wrappers add."""
    names = _unwrapped(weights)
    return weights if all(name == key for name, key in names.items()) else renamed(weights, names)


def without_prefix(weights: StateDict, prefix: str) -> StateDict:
    """Return weights under their names without a prefix; those that have it not keep theirs."""
    names = _exchanged({key: key for key in weights}, prefix, "")
    return renamed(weights, names) if prefix and len(names) == len(weights) else weights


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return names by what is left of them without wrappers' components; as they are where that makes two of them one."""
    plain = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in names}
    return {name: key for key, name in plain.items()} if len(set(plain.values())) == len(plain) else dict(zip(plain, plain))


def _best_prefix(ours: Mapping[str, str], own: StateDict, theirs: Mapping[str, str], shapes: StateDict) -> tuple[str, str]:
    """Return the prefix to drop from our names and the one to add, with which most names and shapes fit; ("", "") for none.

    Where a weight fits by the name that it has, names mean what they say, and none is changed.
    """
    if any(name in theirs and own[key].ndim and shapes[theirs[name]].shape == own[key].shape for name, key in ours.items()):
        return "", ""
    sample = dict(islice(ours.items(), 0, None, -(-len(ours) // SAMPLE) or 1))

    def fit(change: tuple[str, str]) -> int:
        names = _exchanged(sample, *change)
        return sum(name in theirs and shapes[theirs[name]].shape == own[key].shape for name, key in names.items())

    changes = [(drop, add) for drop in ("", *_prefixes(ours)) for add in ("", *_prefixes(theirs)) if not drop or drop != add]
    best = max(changes, key=fit)
    return best if len(_exchanged(ours, *best)) == len(ours) else ("", "")  # else two entries would have one name


def _exchanged(names: Mapping[str, str], drop: str, add: str) -> dict[str, str]:
    """Return names with the prefix `add` in the place of `drop`; those that do not begin with it stay."""
    return {(add + name.removeprefix(drop) if name.startswith(drop) else name): key for name, key in names.items()}


def _change(drop: str, add: str) -> str:
    if drop and add:
        return f"with {add} in the place of {drop} in"
    return f"without the prefix {drop} of" if drop else f"with the prefix {add} before"


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the shortest prefixes, each ending in a dot, that at least half of the names have."""
    names = list(names)
    counts = Counter(name[: dot.end()] for name in names for dot in islice(re.finditer(r"\.", name), MOST_COMPONENTS))
    return sorted((prefix for prefix, count in counts.items() if 2 * count >= len(names)), key=len)[:MOST_PREFIXES]


def _twins(names: Sequence[str], shapes: StateDict, read: Callable[[str], Tensor], there: Container[str]) -> dict[str, str]:
    """Return, for matrices that one side has not, the equal matrix that both have: embeddings that are tied to an output.

    shapes, read: of the side that has them.
    there: the names of the other side.
    """
    twins = {}
    for name in names[:MOST_TIED]:
        same_shape = (key for key, leaf in shapes.items() if key != name and key in there and leaf.shape == shapes[name].shape)
        twin = next((key for key in same_shape if shapes[name].ndim == 2 and torch.equal(read(name), read(key))), None)
        if twin:
            twins[name] = twin
    return twins


def _is_optional(name: str, leaf: Tensor, is_clip: bool, has_blocks: bool) -> bool:
    """Whether an entry that one side has not is no difference between two copies of a model.

    has_blocks: whether that side has some blocks of a text tower, which is damaged if it lacks others.
    """
    if not is_weight(leaf) or BUFFERS.fullmatch(name):
        return True
    if not is_clip:
        return False
    if TEXT_BLOCKS.fullmatch(name):
        return not has_blocks
    return bool(TEXT_ENTRIES.fullmatch(name) or HEAD.fullmatch(name))
