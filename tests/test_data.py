import pytest
import torch

from src.data import demo
from src.data.catalogue import find_tasks
from src.data.task import split_indices
from src.errors import UserError
from tests.processes import ROOT

TASKS = demo.tasks()


def test_the_validation_split_is_that_of_the_papers():
    train, val = split_indices(60_000)
    assert (len(train), len(val)) == (55_000, 5_000) and train[0] == 36044
    assert len(split_indices(4_000)[1]) == 400 and not set(train) & set(val)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_has_three_parts_of_labelled_images(task):
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [3600, 400, 1000]
    labels = [task.examples("test")[i][1] for i in range(1000)]
    assert set(labels) == set(range(len(task.classes)))
    image, _ = task.examples("val")[0]
    assert image.size == (32, 32) and image.mode == "RGB"
    assert len(task.templates) == 3 and all(template.count("{}") == 1 for template in task.templates)
    with pytest.raises(ValueError, match="train, val, test"):
        task.examples("valid")


@pytest.mark.parametrize("drawn", demo.DRAWN, ids=lambda drawn: drawn.name)
def test_drawing_is_repeatable_and_the_parts_differ(drawn):
    first, again, test = drawn.images("train", 64), drawn.images("train", 64), drawn.images("test", 64)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], test[0])
    assert first[0].dtype == torch.uint8 and first[0].float().std() > 10


def test_unknown_and_repeated_tasks_are_named_with_what_there_is():
    with pytest.raises(UserError) as caught:
        find_tasks(["Shapes", "MNIST", "Shapes"])
    assert "MNIST" in caught.value.problems[0] and "Arrows" in caught.value.problems[0]
    assert "Shapes is named 2 times" in caught.value.problems[1]


def test_the_shipped_model_is_small():
    assert (ROOT / "demo" / "ViT-demo.safetensors").stat().st_size < 8 * 2**20
