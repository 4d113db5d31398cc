"""Adapters of tiny models, in folders as peft saves them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from src.checkpoints.opening import open_finetuned
from src.merging.engine.inputs import MergeInputs
from src.models.layers import depth_by_name, is_layer_by_name

SHAPES = {"embed.weight": (7, 6), "blocks.0.w.weight": (8, 6), "blocks.0.w.bias": (8,), "blocks.1.w.weight": (6, 8)}


def pretrained_model(seed: int = 0) -> dict[str, Tensor]:
    """Return a model of two matrices, a bias and an embedding."""
    draw = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=draw) for key, shape in SHAPES.items()}


def random_factors(seed: int, **ranks: int) -> dict[str, Tensor]:
    """Return factors of the model's matrices, by the block of each: `block_0=2` is of rank 2."""
    draw, entries = torch.Generator().manual_seed(seed), {}
    for block, rank in ranks.items():
        layer = f"blocks.{block.removeprefix('block_')}.w"
        outputs, inputs = SHAPES[f"{layer}.weight"]
        entries[f"{layer}.lora_A.weight"] = torch.randn(rank, inputs, generator=draw)
        entries[f"{layer}.lora_B.weight"] = torch.randn(outputs, rank, generator=draw)
    return entries


def save_adapter(folder: Path, entries: dict[str, Tensor], **settings: object) -> Path:
    """Write a folder as peft does; return it."""
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{key}": leaf for key, leaf in entries.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, **settings}))
    return folder


def adapter_inputs(pretrained: dict[str, Tensor], folders: list[Path], keep: bool = False) -> MergeInputs:
    """Return the inputs of a merge of adapters, called as their folders are."""
    models = {folder.name: open_finetuned(folder, pretrained) for folder in folders}
    return MergeInputs(pretrained, models, depth_by_name(pretrained), is_layer_by_name, torch.device("cpu"), keep)
