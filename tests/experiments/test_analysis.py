"""What tasks share, on cases worked by hand."""

import math

import pytest
import torch

from src.compact.packing import pack
from src.experiments.analysis import analyse, effective_rank, mask_use
from src.merging.engine.inputs import MergeInputs
from src.reports.analysis_figures import draw_analysis
from tests.conftest import merge_inputs, tiny_models


def inputs(**moves: list[torch.Tensor]) -> MergeInputs:
    """Models whose parameters moved from zero by the given tensors, one for each task."""
    tasks = len(next(iter(moves.values())))
    pretrained = {key: torch.zeros_like(entries[0]) for key, entries in moves.items()}
    finetuned = {f"task{number}": {key: entries[number] for key, entries in moves.items()} for number in range(tasks)}
    return MergeInputs(pretrained, finetuned, lambda key: None, lambda key: True, torch.device("cpu"), keep=False)


def test_cosines_and_norms():
    analysis = analyse(inputs(w=[torch.tensor([3.0, 0.0]), torch.tensor([4.0, 4.0]), torch.tensor([0.0, -2.0])]), None)
    assert analysis.norm == pytest.approx([3, 32**0.5, 2]) and analysis.masks is None and analysis.layers == []
    half = 0.5**0.5
    assert [value for row in analysis.cosine for value in row] == pytest.approx([1, half, 0, half, 1, -half, 0, -half, 1])


def test_a_task_that_did_not_move_has_no_direction():
    analysis = analyse(inputs(w=[torch.tensor([3.0, 0.0]), torch.zeros(2)]), None)
    assert analysis.cosine[0][1] == 0.0 and analysis.cosine[1][1] == 0.0


def test_masks_are_counted_by_how_many_tasks_use_a_weight():
    bits = [[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [1, 0, 0, 0, 0]]
    masks = [{"w": pack(torch.tensor(row, dtype=torch.bool))} for row in bits]
    use = mask_use(inputs(w=[torch.ones(5), torch.ones(5), torch.ones(5)]), masks)
    assert use.share == pytest.approx([0.2, 0.4, 0.2, 0.2]) and use.kept == pytest.approx([0.6, 0.6, 0.2])
    assert use.overlap[0] == pytest.approx([1, 0.5, 1 / 3])


def test_a_layer_tells_spectra_and_shared_spaces():
    diagonal = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    swapped = diagonal.flip(0).flip(1)  # leads with the last two directions
    (layer,) = analyse(inputs(w=[diagonal, swapped]), None).layers
    assert layer.rank == 2 and layer.values[0] == pytest.approx([3, 2, 1, 0]) == layer.values[1]
    assert layer.overlap[0] == pytest.approx([1, 0], abs=1e-6)
    assert layer.effective_rank == pytest.approx([math.exp(math.log(6) - (3 * math.log(3) + 2 * math.log(2)) / 6)] * 2)


def test_norms_lie_by_block_and_what_is_not_changed_is_counted():
    pretrained, finetuned = tiny_models(tasks=2, blocks=3)
    finetuned["task1"] = {**pretrained, "blocks.2.b": pretrained["blocks.2.b"] + 3}
    whole = merge_inputs((pretrained, finetuned))
    analysis = analyse(whole, None)
    assert [depth for depth, _ in analysis.blocks] == [None, 0.0, 0.5, 1.0]
    assert [norms[1] for _, norms in analysis.blocks] == pytest.approx([0, 0, 0, 6])
    assert sum(norms[0] ** 2 for _, norms in analysis.blocks) == pytest.approx(analysis.norm[0] ** 2)
    assert analysis.changed == pytest.approx([1 - 21 / whole.size, 4 / whole.size])


def test_effective_rank_is_the_number_of_equal_singular_values_and_of_no_change_zero():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3) and effective_rank(torch.zeros(3)) == 0


@pytest.mark.parametrize("tasks,blocks", [(1, 3), (2, 1), (12, 2)])
def test_every_figure_is_drawn(tasks, blocks, tmp_path):
    inputs = merge_inputs(tiny_models(tasks, blocks))
    masks = {task: {key: pack(torch.rand(leaf.numel()) < 0.5) for key, leaf in inputs.outline.items()} for task in inputs.tasks}
    paths = draw_analysis(analyse(inputs, masks), "tiny", tmp_path)
    assert [path.stem for path in paths] == ["cosine", "norms", "mask_use", "mask_overlap", "spectra", "subspaces"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
