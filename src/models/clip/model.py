"""CLIP image towers of open_clip, with zero-shot heads: the model family of the image papers."""

import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import open_clip
import PIL
import torch
import torch.nn.functional as F
import xxhash
from PIL.Image import Image
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import Compose, Normalize

from src.checkpoints.naming import Spelling, spelled_like, without_prefix, without_wrappers
from src.checkpoints.writing import save_file
from src.errors import UserError, nearest, shorten
from src.models.adapters import add_lora
from src.models.clip.augmentation import AugmentedImages
from src.models.clip.heads import Heads, zero_shot_head
from src.models.clip.loading import (
    check_quick_gelu,
    create_model,
    find_pretrained_config,
    has_hub_tokenizer,
    load_tokenizer,
    resolve_quick_gelu,
)
from src.models.clip.mixed import MixedImages
from src.models.clip.pixel_cache import PixelStore, Split
from src.models.entropy import entropies
from src.models.family import PRECISIONS, Batch, ClassPredictor, Predictor, TaskLike, Trainable
from src.models.hf_clip import PROJECTIONS, from_hf, hf_prefix, is_hf
from src.models.layers import depth_by_name, is_layer_by_name
from src.models.linearize import tangent
from src.models.loader import ExampleId, load_batches
from src.models.mixture import Mixture
from src.models.modes import LowRank, Mode, trained_parameters
from src.models.sampling import draw
from src.state_dict import StateDict, combined_digest, digest, entry_digest, outline

PREFIX, TOWER, TEXT = "model.", "model.visual.", ("transformer.", "text.", "text_decoder.")
BLOCKS = r"^model\.visual\.(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\."
Features = Callable[[StateDict, Tensor], Tensor]  # of an image tower's entries and uint8 pixels
T = TypeVar("T")


class Clip:
    """An open_clip model, addressed by the parameter names of the published checkpoints.

    Those hold the whole CLIP but the text transformer, under the prefix `model.`; only the image tower is ever trained
    or edited here, as in the papers, so the heads stay those of the pre-trained model.

    name: as in results and folders.
    architecture: open_clip's name.
    pretrained: open_clip's tag, or a weight file; None for random weights.
    quick_gelu: whether the activation is QuickGELU; None for what the weights were trained with.
    device: where models compute.
    heads: the source of classification heads.
    pixels: the store of decoded images.
    reference: the pre-trained weights, where a set of checkpoints brings its own.
    like: the tag whose activation and preprocessing a weight file has.
    precision: of predictions, fp32, bf16 or fp16.
    compiled: whether torch.compile makes the predictions.
    config: a folder with the architecture's json, if open_clip does not know it.
    merges: the tokenizer's file, if it is not CLIP's own.

    Raise UserError if the weights cannot be loaded, or were trained with another activation than asked for.
    """

    modality = "images"

    def __init__(
        self,
        name: str,
        architecture: str,
        pretrained: str | None,
        quick_gelu: bool | None,
        device: torch.device,
        heads: Heads,
        pixels: PixelStore,
        reference: StateDict | None = None,
        like: str | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        config: str | None = None,
        merges: str | None = None,
    ):
        if precision not in PRECISIONS:
            raise UserError(f"precision is {', '.join(PRECISIONS)}; got {precision}")
        self.name, self.device, self.precision = name, device, precision
        self._architecture, self._head_source, self._pixel_store = architecture, heads, pixels
        if config:
            open_clip.add_model_config(config)
        if open_clip.get_model_config(architecture) is None:
            near = nearest(architecture, open_clip.list_models())
            guess = f"did you mean {near}?" if near else "open_clip.list_models() lists them"
            raise UserError(f"open_clip knows no architecture {architecture}; {guess}")
        pretrained_config = find_pretrained_config(architecture, pretrained, like)
        quick_gelu = resolve_quick_gelu(
            f"{architecture}/{pretrained}", architecture, pretrained_config, quick_gelu, pretrained is not None
        )
        self._create_model = partial(create_model, architecture, pretrained, pretrained_config or {}, quick_gelu, device)
        self._load_tokenizer = cache(partial(load_tokenizer, architecture, **({"bpe_path": merges} if merges else {})))
        if has_hub_tokenizer(architecture) and heads.source != "published":
            self._load_tokenizer()  # what cannot be downloaded is said before weights are
        # a reference brings no text tower; one of transformers' lacks more, which comes from the weights of open_clip
        self._is_loaded = reference is None or is_hf(without_wrappers(reference))
        self._clip, train_transform, eval_transform = self._create_model(load=self._is_loaded)
        check_quick_gelu(self._clip, architecture, quick_gelu)
        self._train_transform, self._eval_transform = _up_to_pixels(train_transform), _up_to_pixels(eval_transform)
        self._normalise: Normalize = eval_transform.transforms[-1]
        self._heads: dict[str, tuple[Tensor, str]] = {}  # of each task, with its digest
        self._parts: dict[str, Tensor] = {}  # of each mixture, the number of the task that each class of its head is of
        self._splits: dict[tuple[str, str], Split] = {}
        self._model_outline = {PREFIX + key: leaf for key, leaf in self._clip.state_dict().items() if not key.startswith(TEXT)}
        self.pretrained: StateDict = {key: leaf.detach().cpu().clone() for key, leaf in self._model_outline.items()}
        self._reference_notes: list[str] = []
        if reference is not None:
            spelling = self.canonical(reference)
            self._check_fits(spelling.entries, getattr(reference, "path", "pretrained="))
            self.pretrained = spelling.entries
            self._reference_notes = [f"the pre-trained model: {note}" for note in spelling.notes]
        settings = [open_clip.get_model_config(architecture), quick_gelu, self._normalise.mean, self._normalise.std]
        vocabulary = Path(merges).read_bytes() if merges else b""
        self.identity = xxhash.xxh3_128_hexdigest(json.dumps(settings, sort_keys=True).encode() + vocabulary)
        self._features: Features = torch.compile(self._image_features) if compiled else self._image_features

    @property
    def batch_size(self) -> int:
        """The number of images that are scored together."""
        return 512 if self.device.type == "cuda" else 64

    @cached_property
    def pretrained_digests(self) -> dict[str, str]:
        """The digest of each entry of the pre-trained weights."""
        return {key: entry_digest(key, leaf) for key, leaf in self.pretrained.items()}

    @property
    def pretrained_digest(self) -> str:
        """The digest of the pre-trained weights."""
        return combined_digest(self.pretrained_digests.values())

    def canonical(self, weights: StateDict) -> Spelling:
        plain = without_wrappers(weights)
        prefix = hf_prefix(plain)
        if prefix is None:
            return spelled_like(weights, self.pretrained)
        theirs = without_prefix(plain, prefix)
        lacking = [name for name in PROJECTIONS if name not in theirs]
        notes = [f"has no {' and '.join(lacking)}, taken from the pre-trained model"] if lacking else []
        return Spelling(from_hf(theirs, self.pretrained), notes, is_filled=True)

    def predictor(self, weights: StateDict, precision: str | None = None) -> Predictor:
        self._check_fits(weights, "the model to score")
        tower = self._tower(weights)
        dtype = PRECISIONS[precision or self.precision]

        @torch.no_grad()
        def predict(batch: Batch) -> Tensor:
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                features = self._features(tower, batch.inputs)
            return self._logits(features, batch.task).argmax(1)

        return ClassPredictor(predict)

    def with_ia3(self) -> "Clip":
        """Raise UserError: there are no such vectors for image towers here."""
        raise UserError(f"(IA)^3 is for text models, and {self.name} sees images; use finetuning_mode=standard, linear or lora")

    def linearized(self) -> "Clip":
        """Return the same family with the tangent model of the image tower, around the pre-trained weights, in its place.

        Features are what is linear in the weights, before they are divided by their norm, as in the released code.
        """
        identity = xxhash.xxh3_128_hexdigest(f"{self.identity} around {self.pretrained_digest}".encode())
        other = copy.copy(self)
        other.identity = identity
        other._features = self._tangent_features
        return other

    def trainable(self, mode: Mode) -> Trainable:
        """Return the part of the image tower that trains in this mode, starting from the pre-trained weights."""
        reference, tower_names = self._reference, {name for name, _ in self._clip.visual.named_parameters()}
        parameters = {TOWER + name: leaf for name, leaf in reference.items() if name in tower_names}
        names = trained_parameters(parameters, BLOCKS, mode.trains)
        total = sum(leaf.numel() for leaf in parameters.values())
        if mode.lora:
            return self._lora_trainable(mode.lora, names, total)
        features = self._tangent_features if mode.trained_linearized else self._image_features

        def loss(entries: Mapping[str, Tensor], batch: Batch) -> Tensor:
            tower = {**reference, **{name.removeprefix(TOWER): leaf for name, leaf in entries.items()}}
            with self._training_mode():
                return self._summed_loss(features(tower, batch.inputs), batch)

        def save(entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
            save_file({key: entries.get(key, leaf) for key, leaf in self.pretrained.items()}, path, metadata)

        return Trainable(
            {name: nn.Parameter(parameters[name].clone()) for name in names},
            loss,
            save,
            total,
            lambda entries: {**self.pretrained, **entries},
        )

    def prepare(self, task: TaskLike) -> str:
        """Build the task's head, or read it; return its digest."""
        if isinstance(task, Mixture):
            return self._prepare_mixture(task)
        if task.name not in self._heads:
            weight = self._head_source.weight(task, lambda: self.identity + self._text_digest, self._build_head)
            weight = weight.to(self.device)
            if weight.shape[1] != self._embed_dim:
                file = self._head_source.published_file(task.name)
                raise UserError(
                    f"{file}, the head of {task.name}, is for features of width {weight.shape[1]}, and those of {self.name} have "
                    f"{self._embed_dim}; type heads.source=prompts, or remove it"
                )
            self._heads[task.name] = weight, digest([("weight", weight)])
        return self._heads[task.name][1]

    def _prepare_mixture(self, mixture: Mixture) -> str:
        """Build the head of all classes of a mixture, of which each task's are a part; return its digest."""
        for task in mixture.tasks:
            self.prepare(task)
        heads = [self._heads[task.name][0] for task in mixture.tasks]
        weight = torch.cat(heads)
        self._heads[mixture.name] = weight, digest([("weight", weight)])
        sizes = torch.tensor([len(head) for head in heads], device=self.device)
        self._parts[mixture.name] = torch.arange(len(heads), device=self.device).repeat_interleave(sizes)
        return self._heads[mixture.name][1]

    def spans(self, task: TaskLike, split: str) -> Sequence[range]:
        return self._split(task, split).spans

    def count(self, task: TaskLike, split: str) -> int:
        return self._split(task, split).count

    def batches(self, task: TaskLike, split: str, size: int, span: range) -> Iterator[Batch]:
        pixels, labels = self._split(task, split).span(span)

        def batch(start: int) -> Batch:
            window = slice(start, start + size)
            if self.device.type == "cpu":
                return Batch(task.name, pixels[window], labels[window])
            pinned = (leaf[window].contiguous().pin_memory() for leaf in (pixels, labels))
            return Batch(task.name, *(leaf.to(self.device, non_blocking=True) for leaf in pinned))

        batches = map(batch, range(0, len(labels), size))
        return batches if self.device.type == "cpu" else _prefetch(batches)

    def training_batches(
        self, task: TaskLike, batches: Iterable[Sequence[ExampleId]], seed: int, workers: int
    ) -> Iterator[Batch]:
        examples = cache(partial(self._training_examples, task))
        images = AugmentedImages(examples, lambda image: _to_tensor(self._train_transform(image)), seed)
        on_gpu = self.device.type == "cuda"
        on_cpu = load_batches(images, batches, workers, pinned=on_gpu)
        on_device = (Batch(task.name, *(leaf.to(self.device, non_blocking=on_gpu) for leaf in leaves)) for leaves in on_cpu)
        return _prefetch(on_device) if on_gpu else on_device

    def _training_examples(self, task: TaskLike) -> Dataset:
        if not isinstance(task, Mixture):
            return task.training_examples()
        return MixedImages(task.training_examples(), [len(self._heads[each.name][0]) for each in task.tasks])

    def data_digest(self, task: TaskLike, split: str) -> str:
        return self._split(task, split).digest

    def depth(self, key: str) -> float | None:
        return self._tower_depth(key) if key.startswith(TOWER) else None

    def is_layer(self, key: str) -> bool:
        return is_layer_by_name(key)

    def on_device(self, weights: StateDict) -> dict[str, Tensor]:
        """Return the image tower's parameters where the model computes, by the names of `pretrained`."""
        names = (TOWER + name for name, _ in self._clip.visual.named_parameters())
        return {name: weights[name].to(self.device, torch.float32) for name in names}

    def linear_layers(self) -> list[str]:
        """Return the names of the weights W of layers y = W x, attention's projections included."""
        names = []
        for path, module in self._clip.visual.named_modules():
            if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                names.append(f"{TOWER}{path}.in_proj_weight")
            elif isinstance(module, nn.Linear):
                names.append(f"{TOWER}{path}.weight")
        return names

    def output_layers(self) -> list[str]:
        """Return []: logits are products with heads, which are no layers of the tower."""
        return []

    def log_probs(self, entries: Mapping[str, Tensor], batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the log-probability of each class, (n, classes).

        entries: parameters on the device, by the names of `pretrained`.
        dtype: of the log-softmax.
        """
        tower = {**self._reference, **{name.removeprefix(TOWER): leaf for name, leaf in entries.items()}}
        return self._logits(self._features(tower, batch.inputs), batch.task).to(dtype).log_softmax(1)

    def objective(self, entries: Mapping[str, Tensor], batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the log-probability of each label, (n,); arguments as of `log_probs`."""
        return self.log_probs(entries, batch, dtype).gather(1, batch.labels[:, None])[:, 0]

    def entropy(self, entries: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the entropy of each image's prediction, (n,).

        entries: as of `log_probs`.
        """
        return entropies(self.log_probs(entries, batch))

    def with_choice(self, batch: Batch, choices: Tensor) -> Batch:
        """Return the batch with these classes, (n,) indices, for labels."""
        return replace(batch, labels=choices)

    @torch.no_grad()
    def sampled(self, entries: Mapping[str, Tensor], batch: Batch, generators: Sequence[Generator]) -> Batch:
        """Return the batch with classes drawn by their probabilities for labels, each by its example's generator."""
        return self.with_choice(batch, draw(self.log_probs(entries, batch).exp(), generators))

    def token_mask(self, layer: str, batch: Batch) -> None:
        """Return None: all of an image's tokens count in every layer."""

    def notes(self, tasks: Iterable[TaskLike]) -> list[str]:
        """Return notes on the names of pre-trained weights, and where some heads are published ones, of unknown prompts."""
        sources = self.head_sources(tasks)
        published, built = ([task for task, source in sources.items() if source == kind] for kind in ("published", "prompts"))
        mixed = f"; built from prompts for {', '.join(built)}" if built else ""
        return [*self._reference_notes, *([f"heads: published for {', '.join(published)}{mixed}"] if published else [])]

    def head_sources(self, tasks: Iterable[TaskLike]) -> dict[str, str]:
        """Return whether each task's head is `published` or built from `prompts`."""
        return {task.name: "published" if self._head_source.published_file(task.name) else "prompts" for task in tasks}

    def _check_fits(self, weights: StateDict, source: object) -> None:
        """Raise UserError, naming their source, unless weights have the model's names and shapes."""
        model, shapes = self._model_outline, {key: leaf.shape for key, leaf in outline(weights).items()}
        misfits = [key for key in model.keys() | shapes.keys() if key not in model or shapes.get(key) != model[key].shape]
        if misfits:
            raise UserError(
                f"{source} is of another model than {self.name}: {shorten(sorted(misfits))} differ in name or shape; "
                "choose its own with model=, or other weights"
            )

    def _tower(self, weights: StateDict) -> dict[str, Tensor]:
        """Return the image tower's entries under its own names, on the device."""
        return {key.removeprefix(TOWER): weights[key].to(self.device, leaf.dtype)
                for key, leaf in self._model_outline.items() if key.startswith(TOWER)}  # fmt: skip

    @cached_property
    def _reference(self) -> dict[str, Tensor]:
        """The pre-trained image tower, on the device."""
        return self._tower(self.pretrained)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self._normalise(pixels.float() / 255)

    def _image_features(self, tower: StateDict, pixels: Tensor) -> Tensor:
        return _pooled(torch.func.functional_call(self._clip.visual, tower, (self._normalised(pixels),)))

    def _tangent_features(self, tower: StateDict, pixels: Tensor) -> Tensor:
        return tangent(lambda weights: self._image_features(weights, pixels), self._reference, tower)

    def _logits(self, features: Tensor, task: str) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # logits are large, and half precision rounds them coarsely
            return F.normalize(features.float(), dim=-1) @ self._heads[task][0].T

    def _summed_loss(self, features: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over a batch; of a mixture, each image's among the classes of its own task."""
        logits = self._logits(features, batch.task)
        if batch.task in self._parts:
            parts = self._parts[batch.task]
            logits = logits.masked_fill(parts != parts[batch.labels, None], -torch.inf)
        return F.cross_entropy(logits, batch.labels, reduction="sum")

    @contextlib.contextmanager
    def _training_mode(self) -> Iterator[None]:
        """Let layers that drop units, patches or paths do so; running statistics are those of the pre-trained model."""
        tower = self._clip.visual
        for module in tower.modules():
            module.training = not isinstance(module, nn.modules.batchnorm._NormBase)
        try:
            yield
        finally:
            tower.eval()

    def _lora_trainable(self, lora: LowRank, names: Sequence[str], total: int) -> Trainable:
        """Return LoRA's factors for the matrices `names`, of a model with `total` parameters."""
        factors = add_lora(copy.deepcopy(self._clip.visual), lora, [name.removeprefix(TOWER) for name in names])

        def loss(entries: Mapping[str, Tensor], batch: Batch) -> Tensor:
            tower = {**self._reference, **factors.weights(entries, self._reference)}
            with self._training_mode():
                return self._summed_loss(self._image_features(tower, batch.inputs), batch)

        def weights(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
            products = factors.weights(entries, self._reference)
            return {**self.pretrained, **{TOWER + name: leaf for name, leaf in products.items()}}

        return Trainable(factors.parameters, loss, factors.save, total, weights)

    def _build_head(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        return zero_shot_head(self._text_model, self._load_tokenizer(), prompts, self.device)

    @cached_property
    def _text_model(self) -> nn.Module:
        """The model whose text tower builds heads; a checkpoint's reference brings none, so it is fetched then."""
        return self._clip if self._is_loaded else self._create_model(load=True)[0]

    @cached_property
    def _text_digest(self) -> str:
        """The digest of the weights that heads are built with: all but the image tower's."""
        return digest((key, leaf) for key, leaf in self._text_model.state_dict().items() if not key.startswith("visual."))

    @cached_property
    def _embed_dim(self) -> int:
        return open_clip.get_model_config(self._architecture)["embed_dim"]

    def _split(self, task: TaskLike, split: str) -> Split:
        if (task.name, split) not in self._splits:
            self._splits[task.name, split] = self._decoded_split(task, split)
        return self._splits[task.name, split]

    def _decoded_split(self, task: TaskLike, split: str) -> Split:
        examples = cache(partial(task.examples, split))  # not opened where all of it was decoded before

        def decode(index: int) -> tuple[Tensor, int]:
            image, label = examples()[index]
            return _to_tensor(self._eval_transform(image)), label

        facts = [task.name, task.fingerprint(split), list(task.classes), str(self._eval_transform), PIL.__version__]
        return self._pixel_store.split(json.dumps(facts), lambda: len(examples()), decode, f"{task.name} ({split})")

    @cached_property
    def _tower_depth(self) -> Callable[[str], float | None]:
        """Returns the depth of a parameter of the image tower (see `depth`)."""
        if not any(re.match(BLOCKS, key) for key in self._model_outline):
            raise UserError(
                f"the image tower of {self._architecture} is no sequence of blocks, as LiNeS needs; leave method.apply_lines out"
            )
        return depth_by_name(self._model_outline, BLOCKS)


def _pooled(features: Tensor | tuple) -> Tensor:
    """Return the pooled feature, beside which towers of captioning models give the tokens."""
    return features[0] if isinstance(features, tuple) else features


def _prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items, the next one being made while one is in use."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item


def _up_to_pixels(transform: Compose) -> Compose:
    """Return open_clip's preprocessing but for the last two steps, which make the image a tensor and normalise it."""
    if not isinstance(transform.transforms[-1], Normalize):
        raise TypeError(f"open_clip's preprocessing no longer ends in Normalize: {transform}")
    return Compose(transform.transforms[:-2])


def _to_tensor(image: Image) -> Tensor:
    """Return an image's uint8 pixels, (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
