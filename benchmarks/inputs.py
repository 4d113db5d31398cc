"""Random checkpoints of real shapes, made once and kept under cache/benchmarks."""

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from src.checkpoints.factors import Factors
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.peft.writing import PACKED, PROJECTION, save_adapter
from src.checkpoints.writing import save_file
from src.merging.engine.statistics import FISHER_DIAG, SHAPES
from src.models.layers import is_layer_by_name
from src.runtime.files import write_json
from src.state_dict import Lazy, StateDict
from src.statistics.collector import Sums
from src.statistics.files import Provenance, save_statistic

FOLDER = Path("cache/benchmarks")


def clip_outline(architecture: str) -> dict[str, Tensor]:
    """Return the names and shapes of a published CLIP encoder: all but the text transformer, under `model.`."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    return {f"model.{key}": leaf for key, leaf in model.state_dict().items() if not key.startswith("transformer.")}


def clip_encoders(tasks: int, architecture: str = "ViT-B-32") -> tuple[Path, list[Path]]:
    """Return the files of a pre-trained encoder and of `tasks` fine-tuned ones whose image tower differs, float32."""
    shapes = clip_outline(architecture)
    folder = FOLDER / architecture
    pretrained = folder / "pretrained.safetensors"
    if not pretrained.exists():
        save_file(Lazy(shapes, lambda key: 0.02 * _noise(shapes[key].shape, key)), pretrained)
    finetuned = [folder / f"task{number}.safetensors" for number in range(tasks)]
    for number, path in enumerate(finetuned):
        if not path.exists():
            base = open_checkpoint(pretrained)
            save_file(Lazy(shapes, lambda key, base=base, number=number: _tuned(base[key], key, number)), path)
    return pretrained, finetuned


def clip_adapters(tasks: int, architecture: str = "ViT-B-32", rank: int = 16) -> tuple[Path, list[Path]]:
    """Return the file of a pre-trained encoder, and folders of LoRA adapters of its image tower's attention, float32."""
    (pretrained, _), folders = clip_encoders(0, architecture), []
    layers = {key: leaf for key, leaf in clip_outline(architecture).items()
              if key.startswith("model.visual.") and key.endswith((PACKED, PROJECTION))}  # fmt: skip
    for number in range(tasks):
        folders.append(FOLDER / architecture / f"adapter{rank}_{number}")
        if not folders[-1].exists():
            factors = {key: Factors(0.02 * _noise((leaf.shape[0], rank), f"up {key} {number}"),
                                    0.02 * _noise((rank, leaf.shape[1]), f"down {key} {number}"))
                       for key, leaf in layers.items()}  # fmt: skip
            save_adapter(factors, {}, clip_outline(architecture), folders[-1], None, {})
    return pretrained, folders


def _tuned(leaf: Tensor, key: str, number: int) -> Tensor:
    return leaf + 1e-3 * _noise(leaf.shape, f"{key} {number}") if key.startswith("model.visual.") else leaf


def statistic_files(kind: str, models: Iterable[Path], shapes: StateDict) -> list[Path]:
    """Return the files of a kind of statistic of encoders, each a file beside its model."""
    files = [path.with_name(f"{path.stem}_{kind}.safetensors") for path in models]
    for path in files:
        if not path.exists():
            entries = noise_statistic(kind, shapes, path.stem, torch.device("cpu"))
            save_statistic(Sums(kind, entries, dict.fromkeys(entries, 1.0)), path, Provenance(kind, "", {}))
    return files


def noise_statistic(kind: str, shapes: StateDict, seed: str, device: torch.device) -> dict[str, Tensor]:
    """Return a random statistic of an image tower: Gram matrices of 64 rows, and of as many ones as there are columns."""
    draw = torch.Generator(device).manual_seed(zlib.crc32(seed.encode()))

    def noise(key: str) -> Tensor:
        shape = SHAPES[kind](shapes[key].shape)
        if kind == FISHER_DIAG:
            return torch.randn(shape, generator=draw, device=device).square_()
        rows = torch.randn(64, shape[0], generator=draw, device=device)
        return torch.eye(*shape, device=device).addmm_(rows.T, rows, alpha=1 / 64)

    tower = [key for key in shapes if "visual." in key]
    layers = [key for key in tower if shapes[key].ndim == 2 and is_layer_by_name(key)]
    return {key: noise(key) for key in (tower if kind == FISHER_DIAG else layers)}


def sharded_language_models(models: int, blocks: int = 8) -> list[Path]:
    """Return folders with bfloat16 models of a 7B decoder's shapes (fewer blocks), one block a shard; the base is first."""
    folders = [FOLDER / f"decoder{blocks}" / f"model{number}" for number in range(models)]
    for number, folder in enumerate(folders):
        if (folder / "model.safetensors.index.json").exists():
            continue
        shards = {f"model-{block:05}.safetensors": _decoder_block(block) for block in range(blocks)}
        ends = {
            "model.embed_tokens.weight": (32000, 4096),
            "lm_head.weight": (32000, 4096),
            "model.norm.weight": (4096,),
        }
        shards[f"model-{blocks:05}.safetensors"] = ends
        for name, shapes in shards.items():
            outline = {key: torch.empty(shape, dtype=torch.bfloat16, device="meta") for key, shape in shapes.items()}
            save_file(
                Lazy(outline, lambda key, shapes=shapes, number=number: _weights(key, shapes[key], number)),
                folder / name,
            )
        weight_map = {key: name for name, shapes in shards.items() for key in shapes}
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
        (folder / "config.json").write_text(json.dumps({"note": "random weights"}))
    return folders


def _decoder_block(block: int) -> dict[str, tuple[int, ...]]:
    name = f"model.layers.{block}"
    square = {f"{name}.self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
    wide = {f"{name}.mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")}
    norms = {f"{name}.{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
    return {**square, **wide, f"{name}.mlp.down_proj.weight": (4096, 11008), **norms}


def _weights(key: str, shape: tuple[int, ...], number: int) -> Tensor:
    base = 0.02 * _noise(shape, key)
    return (base + 1e-3 * _noise(shape, f"{key} {number}") if number else base).to(torch.bfloat16)


def _noise(shape: tuple[int, ...], seed: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(seed.encode())))
