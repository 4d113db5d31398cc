"""The images of a mixture of tasks, whose classes are counted through."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from PIL.Image import Image
from torch.utils.data import ConcatDataset, Dataset


class MixedImages(Dataset):
    """Images of several tasks, one after another; a label is the number of the class among those of all tasks.

    classes: the number of classes of each task.
    """

    def __init__(self, examples: ConcatDataset, classes: Sequence[int]):
        self._examples, self._first = examples, list(accumulate(classes, initial=0))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        image, label = self._examples[index]
        return image, label + self._first[bisect_right(self._examples.cumulative_sizes, index)]
