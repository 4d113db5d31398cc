"""CLIP image towers of open_clip, with zero-shot heads: the model family of the image papers."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import xxhash
from PIL.Image import Image
from torch import Generator, Tensor, nn
from torchvision.transforms import Compose, Normalize

from src.checkpoints import metadata_of, open_checkpoint
from src.errors import UserError
from src.models.family import Batch, TaskLike
from src.models.heads import zero_shot_head
from src.saving import save_file
from src.state_dict import StateDict, digest, outline

PREFIX, TEXT = "model.", "transformer."


class Clip:
    """An open_clip model, addressed by the parameter names of the published checkpoints.

    Those hold the whole CLIP but the text transformer, under the prefix `model.`; only the image tower is ever trained
    or edited here, as in the papers, so the heads stay those of the pre-trained model.

    name: how runs and folders call the model; architecture, pretrained: open_clip's name and tag (or weight file);
    config: a folder with the json, if open_clip does not know the architecture, and merges, the tokenizer's file;
    heads: the folder that keeps heads between runs.
    """

    def __init__(
        self,
        name: str,
        architecture: str,
        pretrained: str,
        quick_gelu: bool,
        device: torch.device,
        heads: Path,
        config: str | None = None,
        merges: str | None = None,
    ):
        self.name, self.device, self._heads_folder = name, device, heads
        if config:
            open_clip.add_model_config(config)
        self._clip, train, val = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained, force_quick_gelu=quick_gelu, device=device
        )
        self._clip.eval()
        options = {"bpe_path": merges} if merges else {}
        self._tokenize = open_clip.get_tokenizer(architecture, **options)
        self._crop, self._view = _pixels(train), _pixels(val)
        self._normalise: Normalize = val.transforms[-1]
        self._heads: dict[str, Tensor] = {}
        self._decoded = cache(partial(Decoded, self._view))
        self._live = {PREFIX + key: leaf for key, leaf in self._clip.state_dict().items() if not key.startswith(TEXT)}
        self.pretrained: StateDict = {key: leaf.detach().cpu().clone() for key, leaf in self._live.items()}
        settings = [open_clip.get_model_config(architecture), quick_gelu, self._normalise.mean, self._normalise.std]
        words = Path(merges).read_bytes() if merges else b""
        self.identity = xxhash.xxh3_128_hexdigest(json.dumps(settings, sort_keys=True).encode() + words)
        self._blocks = len(self._clip.visual.transformer.resblocks)

    def load(self, weights: StateDict) -> None:
        """Copy the image tower's entries of `weights` into the model; UserError if names or shapes differ."""
        shapes = {key: leaf.shape for key, leaf in outline(weights).items()}
        strange = [key for key in self._live.keys() | shapes.keys()
                   if key not in self._live or shapes.get(key) != self._live[key].shape]  # fmt: skip
        if strange:
            raise UserError(f"these weights do not fit {self.name}: {', '.join(sorted(strange)[:3])} ({len(strange)} in all)")
        with torch.no_grad():
            for key, leaf in self._live.items():
                if key.startswith(f"{PREFIX}visual."):
                    leaf.copy_(weights[key])

    def weights(self) -> StateDict:
        return self._live

    def trainable(self) -> list[nn.Parameter]:
        return list(self._clip.visual.parameters())

    def prepare(self, task: TaskLike) -> str:
        """Make the task's head, or read the one made before from the heads folder, if prompts and model are the same."""
        if task.name not in self._heads:
            made_from = json.dumps([self.identity, self._text_digest, list(task.classes), list(task.templates)])
            path = self._heads_folder / f"head_{task.name}.safetensors"
            kept = _kept_head(path, made_from)
            if kept is None:
                kept = zero_shot_head(self._clip, self._tokenize, task.classes, task.templates, self.device)
                save_file({"weight": kept}, path, {"made_from": made_from})
            self._heads[task.name] = kept.to(self.device)
        return digest([("weight", self._heads[task.name])])

    def batches(self, task: TaskLike, split: str, size: int) -> Iterator[Batch]:
        pixels, labels = self._decoded(task, split).tensors
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            yield Batch(task.name, pixels[part].to(self.device), labels[part].to(self.device))

    def training_batches(self, task: TaskLike, size: int, order: Generator) -> Iterator[Batch]:
        examples = task.examples("train")
        for indices in torch.randperm(len(examples), generator=order).split(size):
            images, labels = zip(*(examples[int(index)] for index in indices))
            pixels = torch.stack([_tensor(self._crop(image)) for image in images])
            yield Batch(task.name, pixels.to(self.device), torch.tensor(labels, device=self.device))

    def data_digest(self, task: TaskLike, split: str) -> str:
        return self._decoded(task, split).digest

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self._logits(batch), batch.labels)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        return self._logits(batch).argmax(1)

    def depth(self, key: str) -> float | None:
        match = re.match(rf"{re.escape(PREFIX)}visual\.transformer\.resblocks\.(\d+)\.", key)
        return int(match[1]) / max(self._blocks - 1, 1) if match else None

    @cached_property
    def _text_digest(self) -> str:
        """What heads are made with: all weights but the image tower's."""
        return digest((key, leaf) for key, leaf in self._clip.state_dict().items() if not key.startswith("visual."))

    def _logits(self, batch: Batch) -> Tensor:
        images = self._normalise(batch.inputs.float() / 255)
        return self._clip.encode_image(images, normalize=True) @ self._heads[batch.task].T


class Decoded:
    """A split as the model sees it before normalisation: decoded and resized once, kept as bytes."""

    def __init__(self, view: Callable[[Image], Image], task: TaskLike, split: str):
        self._view, self._task, self._split = view, task, split

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 pixels (n, 3, height, width) and labels (n,)."""
        examples = self._task.examples(self._split)
        images, labels = zip(*(examples[index] for index in range(len(examples))))
        return torch.stack([_tensor(self._view(image)) for image in images]), torch.tensor(labels)

    @cached_property
    def digest(self) -> str:
        return digest(zip(("pixels", "labels"), self.tensors))


def _pixels(transform: Compose) -> Compose:
    """open_clip's preprocessing up to the last two steps, which make the image a tensor and normalise it."""
    if not isinstance(transform.transforms[-1], Normalize):
        raise TypeError(f"open_clip's preprocessing no longer ends in Normalize: {transform}")
    return Compose(transform.transforms[:-2])


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _kept_head(path: Path, made_from: str) -> Tensor | None:
    """The head at `path` if it can be read and was made from just this."""
    return open_checkpoint(path)["weight"] if metadata_of(path).get("made_from") == made_from else None
