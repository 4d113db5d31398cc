"""Small parameters that are worked on as one slice, and read as one tensor where they lie side by side."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.checkpoints.reading import open_files
from src.merging.engine.edits import Edit
from src.merging.engine.groups import extended, groups_of
from src.merging.engine.inputs import SLICE_BYTES, MergeInputs
from src.merging.engine.selection import RUN
from tests.conftest import merge_inputs

SHAPES = {"a.w": (4, 3), "b.w": (70,), "c.w": (1,), "d.w": (9, 5)}


def files(tmp_path, names, *orders):
    """Checkpoints whose entries lie in memory in the given orders, one model each."""
    for number, order in enumerate(orders):
        save_file({key: torch.randn(SHAPES[key]) for key in names}, tmp_path / f"{number}.safetensors")
        # the library orders entries by name: other names give another order
        values = load_file(tmp_path / f"{number}.safetensors")
        flat = torch.cat([values[key].reshape(-1) for key in order])
        parts = flat.split([values[key].numel() for key in order])
        yield {key: parts[order.index(key)].view(SHAPES[key]) for key in names}


def runs(models, limit=1000):
    outline = models[0]
    groups = groups_of(outline.items(), lambda dtype: limit, lambda key: [model[key].reshape(-1) for model in models])
    return [[(run.key, run.start, run.size) for run in group.runs] for group in groups]


def test_entries_side_by_side_in_every_model_are_read_as_one(tmp_path):
    names = list(SHAPES)
    assert runs(list(files(tmp_path, names, names, names))) == [[("a.w", 0, 128)]]
    swapped = ["b.w", "a.w", "c.w", "d.w"]
    apart = [("a.w", 0, 12), ("b.w", 12, 70), ("c.w", 82, 46)]
    assert runs(list(files(tmp_path, names, names, swapped))) == [apart]
    model = next(files(tmp_path, names, names))
    assert runs([model], limit=82) == [[("a.w", 0, 82)], [("c.w", 0, 46)]]
    strided = model | {"b.w": torch.randn(140)[::2]}
    assert runs([strided]) == [[("a.w", 0, 12), ("b.w", 12, 70), ("c.w", 82, 46)]]
    assert torch.equal(extended(model["a.w"].reshape(-1), 128), torch.cat([model[key].reshape(-1) for key in names]))


def test_entries_of_a_file_are_one_run(tmp_path):
    save_file({key: torch.randn(shape) for key, shape in SHAPES.items()}, tmp_path / "m.safetensors")
    assert runs([open_files(tmp_path / "m.safetensors")]) == [[("a.w", 0, 128)]]


@pytest.mark.parametrize("tasks", range(1, 21))
def test_sums_depend_neither_on_what_lies_beside_nor_on_the_order_of_reading(tasks, tmp_path):
    torch.manual_seed(tasks)
    shapes = {f"h.{number}.w": (number % 40 + 1, 3) for number in range(60)}
    base, *models = ({key: torch.randn(shape) for key, shape in shapes.items()} for _ in range(tasks + 1))
    finetuned = {f"t{number}": model for number, model in enumerate(models)}
    for name, model in {"base": base, **finetuned}.items():
        save_file(model, tmp_path / f"{name}.safetensors")
    apart = merge_inputs((base, finetuned))
    together = merge_inputs((open_files(tmp_path / "base.safetensors"),
                             {task: open_files(tmp_path / f"{task}.safetensors") for task in finetuned}))  # fmt: skip
    assert len(apart._groups[0].runs) == 60 and len(together._groups[0].runs) < 5 and len(apart._groups) == 1
    in_order, backwards = (inputs.slicewise(lambda stack: stack.sum(0)) for inputs in (together, apart))
    for key in list(in_order):
        # as over one flat vector, which is how the papers' code adds
        whole = torch.stack([torch.cat([(model[key] - base[key]).reshape(-1), torch.zeros(64)]) for model in models])
        assert torch.equal(in_order[key].reshape(-1), whole.sum(0)[: base[key].numel()])
    for key in reversed(list(backwards)):
        assert torch.equal(backwards[key], in_order[key])


def test_a_result_is_no_view_of_what_is_used_again(models):
    inputs = merge_inputs(models)
    first = inputs.slicewise(lambda stack: stack[0])
    kept = {key: first[key] for key in first}
    values = {key: leaf.clone() for key, leaf in kept.items()}
    list(inputs.scan_together(lambda stack: stack.fill_(7.0)))
    assert all(torch.equal(kept[key], values[key]) for key in kept)


def test_a_group_is_read_once_for_all_its_parameters(models, monkeypatch):
    inputs = merge_inputs(models)
    reads = []
    real = MergeInputs._read
    monkeypatch.setattr(MergeInputs, "_read", lambda self, *args: reads.append(1) or real(self, *args))
    vector = inputs.slicewise(lambda stack: stack.sum(0))
    for key in vector:
        vector[key]
    assert len(reads) == len(inputs._groups) < len(vector)


@dataclass(frozen=True)
class Placed(Edit):
    """Each entry becomes its place in its parameter; rows are edited whole."""

    row: int

    def row_length(self, shape: torch.Size) -> int:
        return self.row

    def __call__(self, stack, spans, tasks):
        for span in spans:
            assert (span.columns.stop - span.columns.start) % self.row == 0 or len(spans) == 1
            stack[:, span.columns] = torch.arange(span.start, span.start + span.columns.stop - span.columns.start).float()


@pytest.mark.parametrize("row", [1, 768])
@pytest.mark.parametrize("size", [400_168, 140_007, 50_021])
def test_a_sample_is_one_in_so_many_of_all_runs(size, row):
    step = 5
    pretrained = {"blocks.0.w": torch.zeros(size)}
    finetuned = {task: {"blocks.0.w": torch.arange(size).float() + number} for number, task in enumerate("ab")}
    inputs = merge_inputs((pretrained, finetuned))
    taken = torch.cat(list(inputs.scan_together(Tensor.clone, step)), 1)
    assert torch.equal(taken[1], taken[0] + 1)  # the same entries of each task
    edited = inputs.edited(Placed(row))
    assert torch.cat(list(edited.scan_together(Tensor.clone)), 1)[0].tolist() == list(range(size))
    for sample, length in ((taken[0], RUN), (torch.cat(list(edited.scan_together(Tensor.clone, step)), 1)[0], max(RUN, row))):
        if size * 4 <= SLICE_BYTES["cpu"]:
            length = 1
        assert (sample.view(-1, length).diff(dim=1) == 1).all()
        runs = sample[::length] / length
        assert (runs % step == runs[0] % step).all() and len(runs) in (size // length // step, size // length // step + 1)


def test_samples_begin_at_other_places_in_other_parameters():
    names = [f"blocks.{number}.w" for number in range(40)]
    pretrained = {name: torch.zeros(140_000) for name in names}
    finetuned = {"a": {name: torch.arange(140_000).float() for name in names}}
    samples = merge_inputs((pretrained, finetuned)).scan_together(lambda stack: stack[0, 0].item() // RUN, 5)
    assert set(samples) == {0, 1, 2, 3, 4}
