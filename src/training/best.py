"""The best weights of a fine-tuning, by their score on validation data, and when to end for lack of better ones."""

import math
from collections.abc import Callable, Mapping
from statistics import fmean

import torch
from torch import Tensor

from src.errors import UserError
from src.models.family import ModelFamily, Predictor, TaskLike, Trainable
from src.models.mixture import Mixture, tasks_of
from src.runtime.distributed import ProcessGroup
from src.state_dict import StateDict
from src.training.recipe import Recipe


class BestWeights:
    """The trained parameters with the highest validation score so far, the first of equal ones; none without evaluations.

    score: the highest score.
    step: the number of steps after which it was reached.
    latest: the score of the last evaluation.
    entries: the parameters by name.
    """

    def __init__(self, trainable: Trainable, recipe: Recipe, measure: Callable[[StateDict], float]):
        """measure: returns the score of a model's weights."""
        self._trainable, self._recipe, self._measure = trainable, recipe, measure
        self.score = self.latest = -math.inf
        self.entries: dict[str, Tensor] = {}
        self.step = self._without_gain = 0

    def update(self, step: int) -> bool:
        """Evaluate, if it is time after this step; return whether it was."""
        if not self._recipe.evaluate_steps or step % self._recipe.evaluate_steps:
            return False
        entries = {name: leaf.detach() for name, leaf in self._trainable.entries.items()}
        self.latest = self._measure(self._trainable.weights(entries))
        self._without_gain += 1
        if self.latest > self.score:
            self.score, self.step, self._without_gain = self.latest, step, 0
            self.entries = {name: leaf.clone() for name, leaf in entries.items()}
        return True

    @property
    def is_over(self) -> bool:
        """Whether the recipe's patience is at its end."""
        return self._recipe.patience is not None and self._without_gain >= self._recipe.patience

    def restore(self) -> None:
        """Give the trained parameters the best values, if there are any."""
        with torch.no_grad():
            for name, leaf in self.entries.items():
                self._trainable.entries[name].copy_(leaf)

    @property
    def facts(self) -> dict[str, str]:
        """What a state file says of the best weights beside their values."""
        if not self.entries:
            return {}
        return {"best_score": repr(self.score), "best_step": str(self.step), "without_gain": str(self._without_gain)}

    def load(self, entries: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Take over best weights, and `facts` of a state file. Raise UserError if the facts are damaged."""
        try:
            self.score, self.step = float(facts.get("best_score", "-inf")), int(facts.get("best_step", "0"))
            self._without_gain = int(facts.get("without_gain", "0"))
        except ValueError as error:
            raise UserError("the state of an unfinished fine-tuning is damaged; remove it to start anew") from error
        self.entries = {name: leaf.to(self._trainable.entries[name].device) for name, leaf in entries.items()}


def validation_score(family: ModelFamily, task: TaskLike | Mixture, weights: StateDict, group: ProcessGroup) -> float:
    """Return the mean score of a model on a task's validation data, of a mixture the mean over its tasks."""
    predictor = family.predictor(weights)
    return fmean(_mean_score(family, predictor, each, group) for each in tasks_of(task))


def _mean_score(family: ModelFamily, predictor: Predictor, task: TaskLike, group: ProcessGroup) -> float:
    """Return a predictor's mean score on validation data, whose spans the processes of the group share."""
    spans = family.spans(task, "val")
    total = 0.0
    for number in group.assign([len(span) for span in spans]):
        for batch in family.batches(task, "val", family.batch_size, spans[number]):
            total += predictor.scores(batch).double().sum().item()
    return group.all_reduce_sum(total) / family.count(task, "val")
