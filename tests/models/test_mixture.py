"""One model on several tasks: their examples together, each among the answers of its own task."""

from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import Subset

from command_line.build import build_family
from command_line.config import compose_config
from command_line.paths import paths_of
from src.data.registry import find_tasks
from src.models.mixture import Mixture, tasks_of
from src.runtime.distributed import SINGLE
from src.training.best import validation_score
from tests.training.test_loop import STANDARD


@dataclass(frozen=True)
class FewExamples:
    """A task's first examples."""

    task: object
    count: int

    def __getattr__(self, name):
        return getattr(self.task, name)

    def training_examples(self):
        return Subset(self.task.training_examples(), range(self.count))

    mixture_examples = training_examples


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    config = compose_config([f"model_location={tmp_path_factory.mktemp('models')}"])
    return build_family(config, paths_of(config), torch.device("cpu"))


@pytest.fixture(scope="module")
def tasks():
    return [FewExamples(task, count) for task, count in zip(find_tasks(["Shapes", "Colours", "Arrows"]), (3, 2, 4))]


def test_the_loss_of_a_mixed_batch_is_the_sum_of_its_tasks_losses(family, tasks):
    mixture = Mixture(tasks)
    family.prepare(mixture)
    trainable = family.trainable(STANDARD)

    def loss(task, indices):
        (batch,) = family.training_batches(task, [[(0, index) for index in indices]], 0, 0)
        return trainable(batch).item()

    def augmented_as(first, task, count):
        """Return a task whose example i is augmented as example `first + i`: its first examples come after others."""
        whole = task.task.training_examples()
        return FewExamples(FixedExamples(task.task, [*[whole[0]] * first, *(whole[i] for i in range(count))]), first + count)

    assert mixture.name == "mixture-Shapes+Colours+Arrows" and len(mixture.training_examples()) == 9
    apart = sum(
        loss(augmented_as(first, task, task.count), range(first, first + task.count))
        for first, task in zip((0, 3, 5), tasks)
    )  # fmt: skip
    assert loss(mixture, range(9)) == pytest.approx(apart, rel=1e-4)
    assert loss(mixture, [8, 1, 3]) == pytest.approx(sum(loss(mixture, [index]) for index in (8, 1, 3)), rel=1e-4)


@dataclass(frozen=True)
class FixedExamples:
    """A task with these examples."""

    task: object
    rows: list

    def __getattr__(self, name):
        return getattr(self.task, name)

    def training_examples(self):
        return self.rows


def test_a_mixture_is_validated_by_the_mean_over_its_tasks(tasks):
    class Half:
        """A family that is right on the first example of each task alone."""

        batch_size = 8

        def predictor(self, weights):
            return self

        def spans(self, task, split):
            return [range(self.count(task, split))]

        def count(self, task, split):
            return task.count

        def batches(self, task, split, size, span):
            yield task.count

        def scores(self, batch):
            return torch.arange(batch) < 1

    assert validation_score(Half(), Mixture(tasks), {}, SINGLE) == pytest.approx((1 / 3 + 1 / 2 + 1 / 4) / 3)
    assert validation_score(Half(), tasks[1], {}, SINGLE) == pytest.approx(1 / 2)


def test_a_mixture_changes_with_each_of_its_tasks(tasks):
    one, other = Mixture(tasks), Mixture(tasks[:2])
    assert one.definition != other.definition and one.fingerprint("train") != other.fingerprint("train")
    assert list(tasks_of(one)) == tasks and tasks_of(tasks[0]) == [tasks[0]]
