"""What a task is: its name, its classes and prompts, and its examples by split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Generator
from torch.utils.data import Dataset, Subset

SPLITS = ("train", "val", "test")
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000


@dataclass(frozen=True)
class Task:
    """An image classification task.

    classes: class names in label order; templates: prompts with a `{}` for the class name;
    part: the examples (image, label) of `train` (validation included) or `test`, as a map-style dataset.
    """

    name: str
    classes: Sequence[str]
    templates: Sequence[str]
    part: Callable[[str], Dataset[tuple[Image, int]]]

    def examples(self, split: str) -> Dataset[tuple[Image, int]]:
        """The examples of `train`, `val` or `test`.

        Validation is a tenth of the training part, at most 5,000, drawn by `random_split` with seed 0, as in the
        papers (of MNIST's 60,000 the first index left for training is 36044).
        """
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}; got {split}")
        if split == "test":
            return self.part("test")
        whole = self.part("train")
        train, val = split_indices(len(whole))
        return Subset(whole, train if split == "train" else val)


def split_indices(count: int) -> tuple[list[int], list[int]]:
    """The (training, validation) indices of `count` examples."""
    held = min(int(count * VALIDATION_SHARE), VALIDATION_MOST)
    train, val = torch.utils.data.random_split(range(count), [count - held, held], Generator().manual_seed(0))
    return list(train.indices), list(val.indices)
