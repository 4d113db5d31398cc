"""Save modules as other people's code did: their classes have module paths that exist only while a file is written."""

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import open_clip
import torch
from torch import nn

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 24, "heads": 2, "layers": 1},
}


def tiny_clip(seed: int = 0, **changes: object) -> open_clip.CLIP:
    """Return a CLIP with random weights.

    changes: to TINY.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return open_clip.CLIP(**{**TINY, **changes})


class ImageEncoder(nn.Module):
    """The image encoder of published checkpoints.

    keep_lang: whether the text transformer stays in it.
    """

    def __init__(self, model: nn.Module, keep_lang: bool = False):
        super().__init__()
        self.model = model
        self.val_preprocess = open_clip.image_transform(16, is_train=False)  # real files have it beside the weights
        self.cache_dir = None
        if not keep_lang:
            del model.transformer


class ClassificationHead(nn.Linear):
    """The head of published checkpoints."""

    def __init__(self, weight: torch.Tensor):
        super().__init__(*reversed(weight.shape))
        self.normalize = True
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight)))


@contextlib.contextmanager
def pickled_in(module: str, *classes: type) -> Iterator[None]:
    """In the block, pickle these classes as those of `module`, which exists only there."""
    names = [".".join(module.split(".")[: index + 1]) for index in range(module.count(".") + 1)]
    new_names = [name for name in names if name not in sys.modules]
    sys.modules.update({name: types.ModuleType(name) for name in new_names})
    before = {cls: cls.__module__ for cls in classes}
    try:
        for cls in classes:
            setattr(sys.modules[module], cls.__name__, cls)
            cls.__module__ = module
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Couldn't retrieve source code")  # which the legacy format puts beside a class
            yield
    finally:
        for cls, own_module in before.items():
            cls.__module__ = own_module
            delattr(sys.modules[module], cls.__name__)
        for name in new_names:
            del sys.modules[name]


def save_encoder(path: Path, module: str, keep_lang: bool = False, **options: object) -> dict[str, torch.Tensor]:
    """Save a whole image encoder; return the entries that reading it must yield."""
    encoder = ImageEncoder(tiny_clip(), keep_lang)
    with pickled_in(module, ImageEncoder):
        torch.save(encoder, path, **options)
    return {key: leaf for key, leaf in encoder.state_dict().items() if not key.startswith("model.transformer.")}


def save_head(path: Path, module: str, seed: int = 0) -> torch.Tensor:
    """Save a whole classification head; return its weight."""
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))
    with pickled_in(module, ClassificationHead):
        torch.save(ClassificationHead(weight), path)
    return weight


def linearized_entries(finetuned: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return a linearized checkpoint as its authors wrote it: numbers for names, and the model's name among the tensors."""
    models = (("params", finetuned), ("params0", reference))
    leaves = {f"model.{prefix}.{number}": leaf for prefix, model in models for number, leaf in enumerate(model.values())}
    return {**leaves, "model_name": "ViT-B-32"}
