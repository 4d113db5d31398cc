"""`merge`: what `python main.py model=files` does, as a function on state dicts or paths.

    from merging import merge

    merged = merge("ties", pretrained, {"cars": cars, "dtd": dtd}, coefficient=1.0, k=20, lines=True)
    model.load_state_dict(merged)

docs/python.md explains it.
"""

import command_line  # noqa: F401  before torch: it says how threads wait

# isort: split
import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from command_line.composition import separate_hydra
from command_line.config import HOLDERS, compose_config, validate
from command_line.output import merged_contents
from command_line.overrides import override_text
from command_line.paths import named_sources, source_of
from command_line.unscored import prepare_merge, write_merge
from src.errors import UserError
from src.merging.engine.conjugate_gradient import CONVERGED, convergence_notes
from src.runtime.files import expand_path
from src.state_dict import Lazy, StateDict, outline

Model = str | os.PathLike | StateDict
Statistics = Sequence[str | os.PathLike] | Mapping[str, Mapping[str, StateDict]]


def merge(
    method: str,
    pretrained: Model,
    finetuned: Mapping[str, Model] | Sequence[Model],
    *,
    coefficient: float | None = None,
    svc: bool = False,
    lines: bool = False,
    normalise: str | None = None,
    depth_pattern: str | None = None,
    statistics: Statistics = (),
    device: str | torch.device | None = None,
    output: str | os.PathLike | None = None,
    output_kind: str = "model",
    rank: int | None = None,
    bundle: Mapping[str, object] | None = None,
    **options: object,
) -> StateDict | dict[str, StateDict] | Path:
    """Return the merged model, a mapping from names to tensors that are computed when they are read; nothing given is edited.

    method: a file of config/method, such as "ties".
    pretrained, finetuned: state dicts, or paths of all that model=files reads; fine-tuned ones by task, or a list.
    coefficient: specify_lambda of the command; of LiNeS beta. Needed unless the method has a fixed one.
    svc: whether the merged vector's singular values are calibrated with SVC, before LiNeS.
    lines: whether the merged vector is scaled by depth with LiNeS.
    normalise: "norms" scales all task vectors to the median one's length first.
    depth_pattern: a regular expression whose groups number stages and blocks, for LiNeS.
    statistics: for methods that need them, as fisher, regmean, cg and esm: files, of each kind one a model, or state dicts by
        kind and task.
    device: to compute on; by default a GPU if there is one.
    output: a .safetensors file or a folder; if it is given, the merge is written there, an entry in memory at a time, and the
        path is returned.
    output_kind: model; task_vector, what is added to the pre-trained one; with an output also bundle, of methods that make a
        model for each task, or adapter, a LoRA that peft loads.
    rank: of an adapter; needed unless adapters are merged in the space of their factors.
    bundle: its options, as {"bits": 4}: what is kept for each task is codes then, of which the models are made.
    options: of the method, as its file of config/method has them: k=20, agg="sum", base="ties".

    Entries have the dtype and device of the pre-trained model's, and memory of their own. A method that makes a model for each
    task returns a dict of them. What the command prints about the models is warned of.

    Raise UserError, a ValueError, as the command does: for options, models and outputs that do not fit, and, when an entry is
    read, for values that cannot be merged.
    """
    if not isinstance(bundle, Mapping | None):
        raise UserError(f'bundle is its options by name, as in bundle={{"bits": 4}}; got {bundle}')
    base, models, notes = source_of(pretrained), named_sources(finetuned), []
    in_memory = statistics if isinstance(statistics, Mapping) else {}
    settings = {
        "specify_lambda": coefficient,
        "method.apply_svc": svc or None,
        "method.apply_lines": lines or None,
        "normalise": normalise,
        "method.depth_pattern": depth_pattern,
        "statistics.files": None if in_memory else statistics or None,
        "device": device,
        "output": output,
        "output_kind": output_kind,
        "rank": rank,
        **{f"bundle.{name}": value for name, value in (bundle or {}).items()},
    }
    with separate_hydra(), _ordinary_torch():
        config = compose_config(_overrides(method, settings, options))
        validate(config)
        merged = prepare_merge(config, base, models, in_memory, notes.append)
        if output:
            write_merge(config, merged, notes.append)
            convergence = merged.inputs.convergence
            notes += convergence_notes({key: each for key, each in convergence.items() if each.reason != CONVERGED})
        else:
            contents = merged_contents(config, merged.merges, merged.coefficients, merged.pretrained)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if output:
        return expand_path(output)
    memory = base if isinstance(base, Mapping) and outline(base) is base else {}
    by_task = {task: _independent(entries, memory) for task, entries in contents.items()}
    return by_task if merged.merges.compact else next(iter(by_task.values()))


def _overrides(method: str, settings: Mapping[str, object], options: Mapping[str, object]) -> list[str]:
    """Return what would be typed for the command: settings that are not None, and options of the method.

    options: by name; a name alone for an option that holds others, as `base` does, chooses them.
    """
    typed = {f"method.{name}": value for name, value in options.items()}
    chosen = {HOLDERS[key][0] if key in HOLDERS and isinstance(value, str) else key: value for key, value in typed.items()}
    values = {"model": "files", "method": method, **settings, **chosen}
    return [override_text(key, _plain(value)) for key, value in values.items() if key in chosen or value is not None]


def _plain(value: object) -> object:
    """Return numbers of numpy and torch as Python's, and paths and devices as text, in lists and mappings, too."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike | torch.device):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


@contextlib.contextmanager
def _ordinary_torch() -> Iterator[None]:
    """Compute in the block, or the function, as if the caller were in no inference mode and had set no default device."""
    is_usual = torch.get_default_device().type == "cpu"  # a mode for the device doubles the time of small entries
    with torch.inference_mode(False), contextlib.nullcontext() if is_usual else torch.device("cpu"):
        yield


def _independent(entries: StateDict, memory: StateDict) -> Lazy:
    """Return entries in memory of their own, each on the device that it has in `memory`, or else on the CPU."""

    @_ordinary_torch()
    def entry(key: str) -> Tensor:
        own = memory.get(key)
        leaf = entries[key].to("cpu" if own is None else own.device)
        storage = leaf.untyped_storage()
        is_view = storage.nbytes() != leaf.nbytes  # of a file's memory, or of one zero
        is_shared = own is not None and storage.data_ptr() == own.untyped_storage().data_ptr()
        return leaf.clone(memory_format=torch.contiguous_format) if is_view or is_shared else leaf

    return Lazy(outline(entries), entry)
