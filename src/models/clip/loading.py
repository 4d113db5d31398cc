"""open_clip's models by architecture and tag, with the activation that their weights were trained with."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import torch
from torch import nn
from torchvision.transforms import Compose

from src.errors import UserError, nearest


def find_pretrained_config(architecture: str, pretrained: str | None, like: str | None) -> dict | None:
    """Return open_clip's configuration of pre-trained weights, with their activation and preprocessing.

    None for random weights, and for a file that is like no tag.

    pretrained: a tag, or a weight file; None for random weights.
    like: the tag whose configuration a weight file has.

    Raise UserError if the architecture has no tag `like`.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if like is not None and like not in tags:
        raise UserError(f"model.family.like={like} is no tag of {architecture}; they are {', '.join(tags) or 'none'}")
    tag = like or pretrained
    return (open_clip.get_pretrained_cfg(architecture, tag) or None) if tag else None


def resolve_quick_gelu(
    name: str, architecture: str, pretrained_config: dict | None, quick_gelu: bool | None, has_weights: bool
) -> bool:
    """Whether the activation is QuickGELU.

    name: of the weights, for messages.
    quick_gelu: what the user asked for; None for what the weights were trained with.
    has_weights: whether there are pre-trained weights.

    Raise UserError if the weights were trained with the other activation, or if nothing tells with which: accuracy would
    fall without a word.
    """
    default = open_clip.get_model_config(architecture).get("quick_gelu", False)
    if pretrained_config is None:
        if quick_gelu is None and has_weights and not default:
            raise UserError(
                f"nothing tells with which activation and preprocessing {name} was trained; say model.family.like=TAG "
                "(openai, say), or model.family.quick_gelu=true or false with OpenAI's preprocessing"
            )
        return bool(quick_gelu) or default
    expected = pretrained_config.get("quick_gelu", False) or default
    if quick_gelu is not None and quick_gelu != expected:
        raise UserError(
            f"{name} was trained with {'QuickGELU' if expected else 'GELU'}; set model.family.quick_gelu={str(expected).lower()}"
        )
    return expected


def create_model(
    architecture: str, pretrained: str | None, pretrained_config: dict, quick_gelu: bool, device: torch.device, load: bool
) -> tuple[nn.Module, Compose, Compose]:
    """Return open_clip's model, and its preprocessing in training and in evaluation.

    pretrained_config: {} for OpenAI's preprocessing.
    load: whether to load the weights of `pretrained`; else they are random.

    Raise UserError if the weights cannot be loaded.
    """
    preprocessing = {
        f"image_{key}": pretrained_config[key]
        for key in ("mean", "std", "interpolation", "resize_mode")
        if key in pretrained_config
    }
    try:
        with contextlib.nullcontext() if load else _silent_warnings():
            model, *transforms = open_clip.create_model_and_transforms(
                architecture,
                pretrained=pretrained if load else None,
                force_quick_gelu=quick_gelu,
                device=device,
                **preprocessing,
            )
    except Exception as error:  # a download, or a file of another model, fails in a dozen ways
        raise UserError(_not_loaded(architecture, pretrained, error)) from error
    return model.eval(), *transforms


def _not_loaded(architecture: str, pretrained: str | None, error: Exception) -> str:
    """Return a sentence on pre-trained weights that open_clip did not load: a tag, a file, or neither."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained in tags:
        advice = f"without a network, copy their file here and type model.pretrained=FILE model.family.like={pretrained}"
    elif pretrained and Path(pretrained).exists():
        advice = "check that the file is whole, and of this architecture"
    else:
        near = nearest(str(pretrained), tags)
        guess = f"did you mean {near}?" if near else f"its tags are {', '.join(tags) or 'none'}; check model.pretrained"
        advice = f"that is no file, and no tag of open_clip; {guess}"
    return f"the pre-trained weights {pretrained} of {architecture} cannot be loaded ({_first_line(error)}); {advice}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def has_hub_tokenizer(architecture: str) -> bool:
    """Whether the tokenizer of an architecture does not come with open_clip, and lies on the Hub."""
    text = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
    return bool(text.get("hf_tokenizer_name")) or "siglip" in architecture.lower()


def load_tokenizer(architecture: str, **options: object) -> Callable:
    """Return the tokenizer of an architecture. Raise UserError if it cannot be loaded, or downloaded."""
    try:
        return open_clip.get_tokenizer(architecture, **options)
    except Exception as error:  # transformers and the Hub's client raise what they like, in paragraphs
        raise UserError(
            f"the tokenizer of {architecture} has to come from the Hub and cannot be loaded "
            f"({_first_line(error)}); "
            'where there is a network, run `python -c "import open_clip; '
            f"open_clip.get_tokenizer('{architecture}')\"` and copy the Hub's cache (HF_HOME), or give heads.source=published if "
            "there are published heads"
        ) from error


def check_quick_gelu(model: nn.Module, architecture: str, quick_gelu: bool) -> None:
    """Raise UserError unless the image tower's activations are QuickGELU, or none of them is, as asked for."""
    kinds = {type(module).__name__ for module in model.visual.modules() if "GELU" in type(module).__name__}
    if kinds - {"QuickGELU"} if quick_gelu else "QuickGELU" in kinds:
        raise UserError(
            f"open_clip built {architecture} with {', '.join(kinds)}, not as model.family.quick_gelu asks; leave that out"
        )


@contextlib.contextmanager
def _silent_warnings() -> Iterator[None]:
    """Silence open_clip's warning of random weights, which are about to be replaced."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
