"""Augmented training images: the augmentation follows from seed, epoch and index, in whatever process it is done."""

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from src.errors import UserError
from src.models.loader import ExampleId, seed_of


class AugmentedImages(Dataset):
    """Training images, read several at a time and augmented; each one's random numbers are seeded by seed, epoch and index.

    examples: opens the dataset, in the process that reads.
    augment: makes uint8 pixels (3, height, width) of an image, by torch's random numbers.
    """

    def __init__(self, examples: Callable[[], Dataset], augment: Callable[[Image], Tensor], seed: int):
        self._examples, self._augment, self._seed = examples, augment, seed

    def __getitems__(self, ids: Sequence[ExampleId]) -> tuple[Tensor, Tensor] | UserError:
        """Return uint8 pixels (n, 3, height, width) and labels (n,), or a UserError, returned not raised (see `load_batches`)."""
        try:
            return self._read(ids)
        except UserError as error:
            return error

    def _read(self, ids: Sequence[ExampleId]) -> tuple[Tensor, Tensor]:
        examples, pixels, labels = self._examples(), [], []
        with torch.random.fork_rng(devices=[]):
            for epoch, index in ids:
                image, label = examples[index]
                torch.default_generator.manual_seed(seed_of(self._seed, epoch, index))
                pixels.append(self._augment(image))
                labels.append(label)
        return torch.stack(pixels), torch.tensor(labels)
