"""The smallest model family: a linear model that tells points left and right of a line apart."""

import torch
from torch import nn

from src.checkpoints.writing import save_file
from src.models.family import Batch, ClassPredictor, Trainable
from src.state_dict import combined_digest, entry_digest


class LinearFamily:
    """A linear model of whether the first coordinate of a point is positive."""

    name = identity = "line"
    precision, device = "fp32", torch.device("cpu")

    def __init__(self):
        torch.manual_seed(0)
        self._model = nn.Linear(2, 2)
        self.pretrained = {key: leaf.detach().clone() for key, leaf in self._model.state_dict().items()}
        self.pretrained_digests = {key: entry_digest(key, leaf) for key, leaf in self.pretrained.items()}
        self.pretrained_digest = combined_digest(self.pretrained_digests.values())
        self.points = torch.randn(64, 2)
        self.prepared = []
        self.batch_size = 32

    def prepare(self, task):
        self.prepared.append(task.name)
        return "head"

    def trainable(self, mode):
        def loss(entries, batch):
            logits = torch.func.functional_call(self._model, entries, (batch.inputs,))
            return nn.functional.cross_entropy(logits, batch.labels, reduction="sum")

        parameters = {key: nn.Parameter(leaf.clone()) for key, leaf in self.pretrained.items()}
        return Trainable(parameters, loss, save_file, 6)

    def training_batches(self, task, batches, seed, workers):
        for ids in batches:
            points = self.points[[index for _, index in ids]]
            yield Batch(task.name, points, (points[:, 0] > 0).long())

    def count(self, task, split):
        return 64

    def spans(self, task, split):
        return [range(0, 40), range(40, 64)]

    def batches(self, task, split, size, span):
        for part in self.points[span.start : span.stop].split(size):
            yield Batch(task.name, part, (part[:, 0] > 0).long())

    def data_digest(self, task, split):
        return split

    def predictor(self, weights, precision=None):
        return ClassPredictor(lambda batch: torch.func.functional_call(self._model, dict(weights), (batch.inputs,)).argmax(1))


class Points:
    """A task of 64 points."""

    name = definition = "points"

    def examples(self, split):
        return range(64)

    def training_examples(self):
        return self.examples("train")

    def fingerprint(self, split):
        return split
