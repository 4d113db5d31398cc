"""State dicts out of whatever torch.save wrote: plain and wrapped state dicts, modules, linearized checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from src.errors import UserError
from src.pickles.linearized import FINETUNED, MODEL_NAME, REFERENCE, is_linearized, named_parameters
from src.pickles.modules import read_modules
from src.pickles.stand_ins import OddTensor

WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a file by name, mapped and not copied; of a linearized checkpoint the fine-tuned ones.

    Raise UserError if the file holds anything but tensors and modules, or cannot be read; nothing in it is executed.
    """
    entries = _read_entries(path)
    return _named_parameters(path, entries, FINETUNED) if is_linearized(entries) else entries


def read_tangent_pair(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]:
    """Return the fine-tuned state dict, as `read_state_dict`, and the one a linearized checkpoint is linearized around.

    The second is None for any other file. Raise UserError as `read_state_dict` does.
    """
    entries = _read_entries(path)
    if not is_linearized(entries):
        return entries, None
    return _named_parameters(path, entries, FINETUNED), _named_parameters(path, entries, REFERENCE)


def _named_parameters(path: Path, entries: Mapping[str, object], model: str) -> Mapping[str, Tensor]:
    try:
        return named_parameters(entries, model)
    except ValueError as error:
        raise UserError(f"{path} is a linearized checkpoint of no model that is known here: {error}") from error


def _read_entries(path: Path) -> Mapping[str, object]:
    """Return the tensors in a file by name; of a linearized checkpoint also the model's name."""
    try:
        content = read_modules(path)
    except UserError:
        raise
    except Exception as error:  # torch and pickle raise a dozen kinds here, all of which mean an unreadable file
        summary = (str(error).splitlines() or [""])[0][:160]
        raise UserError(
            f"{path} cannot be read as a file of torch.save ({type(error).__name__}: {summary}): "
            "it is truncated or no such file; copy or download it again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    size, has_model_name = path.stat().st_size, is_linearized(content)
    checks = (_problem(key, leaf, size) for key, leaf in content.items() if not (has_model_name and key == MODEL_NAME))
    problems = [problem for problem in checks if problem]
    if problems:
        raise UserError(
            f"{path} is not a dict of tensors only: {', '.join(problems[:3])}; save a plain state dict: "
            "torch.save(model.state_dict(), ...)"
        )
    return content


def _problem(key: object, leaf: object, size: int) -> str | None:
    """Return what is wrong with an entry of a file of `size` bytes; None for an ordinary tensor.

    A stride of zero lets one number stand for any count of them, and computing with such a tensor runs out of memory.
    """
    if not isinstance(key, str):
        return f"{key!r} (a {type(key).__name__} for a name)"
    if isinstance(leaf, OddTensor):
        return f"{key} ({leaf.kind})"
    if not isinstance(leaf, Tensor):
        return f"{key} (a {type(leaf).__name__})"
    if leaf.numel() * leaf.element_size() > size:
        return f"{key} (of shape {tuple(leaf.shape)}, which is more than the whole file)"
    return None
