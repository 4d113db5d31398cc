"""EMR-Merging: properties that follow from its formulas, and a case by hand."""

import pytest
import torch

from src.compact.form import SCALE
from src.compact.packing import unpack
from src.merging.emr import EMR
from tests.conftest import merge_inputs, tiny_models

W, B = "blocks.0.w", "blocks.0.b"


def models_of(moves: dict[str, list[list[float]]]) -> tuple[dict, dict]:
    """Models whose task vectors are those: of each parameter a row a task."""
    rows = {key: torch.tensor(move) for key, move in moves.items()}
    tasks = len(next(iter(moves.values())))
    pretrained = {key: torch.zeros_like(move[0]) for key, move in rows.items()}
    return pretrained, {f"task{number}": {key: move[number] for key, move in rows.items()} for number in range(tasks)}


def test_a_case_by_hand():
    inputs = merge_inputs(models_of({W: [[1.0, -2.0, 3.0, 0.0], [3.0, 1.0, -3.0, 0.0]], B: [[4.0], [2.0]]}))
    compact = EMR()(inputs).compact({})
    # of w, the signs of the sums 4, -1, 0 and 0 are +, -, -, -
    assert compact.shared[W].tolist() == [3, -2, -3, 0] and compact.shared[B].tolist() == [4]
    masks = {task: unpack(packed[W], 4).tolist() for task, packed in compact.masks().items()}
    assert masks == {"task0": [True, True, False, False], "task1": [True, False, True, False]}
    # own means over w and b, over those of what the mask selects
    first, second = (6 / 4 + 4) / (5 / 4 + 4), (7 / 4 + 2) / (6 / 4 + 4)
    assert [part[SCALE].item() for part in compact.parts.values()] == pytest.approx([first, second])
    vectors = EMR()(inputs)(1.0)
    torch.testing.assert_close(vectors["task1"][W], second * torch.tensor([3.0, 0, -3, 0]))
    torch.testing.assert_close(vectors["task1"][B], second * torch.tensor([4.0]))


@pytest.mark.parametrize("tasks", [1, 3])
def test_tasks_that_agree_get_their_vector_to_the_bit(tasks):
    pretrained, finetuned = tiny_models(1)
    inputs = merge_inputs((pretrained, {f"task{number}": finetuned["task0"] for number in range(tasks)}))
    for vector in EMR()(inputs)(1.0).values():
        assert all(torch.equal(vector[key], finetuned["task0"][key] - pretrained[key]) for key in vector)


def test_a_task_that_changed_nothing_or_agrees_nowhere_stays_at_the_pretrained_model():
    inputs = merge_inputs(models_of({W: [[0.0, 0.0], [3.0, -3.0], [-1.0, 1.0]]}))
    family = EMR()(inputs)
    assert [part[SCALE].item() for part in family.compact({}).parts.values()] == pytest.approx([1, 1, 1])
    vectors = family(1.0)
    assert not vectors["task0"][W].any() and not vectors["task2"][W].any()
    assert vectors["task1"][W].tolist() == [3, -3]
