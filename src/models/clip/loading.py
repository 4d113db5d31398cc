"""open_clip's models by name and tag, with the activation that their weights were trained with."""

import contextlib
import logging
from collections.abc import Iterator

import open_clip
import torch
from torch import nn
from torchvision.transforms import Compose

from src.errors import UserError


def create_model(
    architecture: str, pretrained: str | None, tag: dict, quick_gelu: bool, device: torch.device, load: bool
) -> tuple[nn.Module, Compose, Compose]:
    """open_clip's model, with the weights of `pretrained` or with random ones, and the preprocessing of `tag`."""
    look = {f"image_{key}": tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
    try:
        with _silent(unless=load):
            model, *transforms = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained if load else None, force_quick_gelu=quick_gelu, device=device, **look
            )
    except Exception as reason:  # a download, or a file of another model, fails in a dozen ways
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        like = pretrained if pretrained in tags else "TAG"
        raise UserError(
            f"the pre-trained weights {pretrained} of {architecture} cannot be had ({str(reason).splitlines()[0][:200]}); where "
            f"there is no network, copy them here and give model.pretrained=FILE model.family.like={like} "
            f"(tags there are: {', '.join(tags) or 'none'})"
        ) from reason
    return model.eval(), *transforms


@contextlib.contextmanager
def _silent(unless: bool) -> Iterator[None]:
    """Without open_clip's word on random weights, where they are about to be replaced."""
    before = logging.root.manager.disable
    logging.disable(before if unless else logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def tag_of(architecture: str, pretrained: str | None, like: str | None) -> dict | None:
    """What open_clip knows of the weights: their activation and preprocessing; None of a file that is like no tag."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if like is not None and like not in tags:
        raise UserError(f"model.family.like={like} is no tag of {architecture}; they are {', '.join(tags) or 'none'}")
    name = like or pretrained
    return (open_clip.get_pretrained_cfg(architecture, name) or None) if name else None


def activation(name: str, architecture: str, tag: dict | None, asked: bool | None, weights: bool) -> bool:
    """Whether the activation is QuickGELU. UserError if weights were trained with the other one, or nothing tells:
    accuracy would fall without a word."""
    own = open_clip.get_model_config(architecture).get("quick_gelu", False)
    if tag is None:
        if asked is None and weights and not own:
            raise UserError(
                f"nothing tells with which activation and preprocessing {name} was trained; say model.family.like=TAG "
                "(openai, say), or model.family.quick_gelu=true or false with OpenAI's preprocessing"
            )
        return bool(asked) or own
    trained = tag.get("quick_gelu", False) or own
    if asked is not None and asked != trained:
        raise UserError(
            f"{name} was trained with {'QuickGELU' if trained else 'GELU'}; set model.family.quick_gelu={str(trained).lower()}"
        )
    return trained


def check_activation(model: nn.Module, architecture: str, quick_gelu: bool) -> None:
    kinds = {type(module).__name__ for module in model.visual.modules() if "GELU" in type(module).__name__}
    if kinds - {"QuickGELU"} if quick_gelu else "QuickGELU" in kinds:
        raise UserError(f"open_clip built {architecture} with {', '.join(kinds)}, and quick_gelu={quick_gelu} was asked for")
