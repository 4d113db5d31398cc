"""Norms of task vectors: warnings of unequal ones, and merges of equal ones."""

import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from src.merging.engine.norms import equalised, estimated_norms, norm_warnings, norms
from tests.conftest import merge_inputs, tiny_models


def stretched(tasks: int, factors: dict[int, float]) -> tuple[dict, dict]:
    """The tiny models, with the vectors of some tasks times a factor."""
    pretrained, finetuned = tiny_models(tasks=tasks)
    for number, factor in factors.items():
        model = finetuned[f"task{number}"]
        for key, leaf in model.items():
            if leaf.is_floating_point():
                model[key] = pretrained[key] + factor * (leaf - pretrained[key])
    return pretrained, finetuned


def test_norms_are_those_of_the_vectors(inputs):
    assert norms(inputs).tolist() == pytest.approx([vector.norm() for vector in inputs.vectors.values()])


def test_an_estimate_reads_parts_and_comes_near():
    pretrained = {"w": torch.zeros(1000, 1000), "b": torch.zeros(10), "frozen": torch.zeros(5)}
    finetuned = {f"task{scale}": {key: scale * torch.randn_like(leaf) if key != "frozen" else leaf
                                  for key, leaf in pretrained.items()} for scale in (1, 4)}  # fmt: skip
    read = 0

    class Counted(torch.Tensor):
        def __getitem__(self, part):
            nonlocal read
            read += len(range(*part.indices(len(self))))
            return super().__getitem__(part).as_subclass(torch.Tensor)

    inputs = merge_inputs(({"blocks.0.w": torch.zeros(1), **pretrained}, {task: {"blocks.0.w": torch.zeros(1), **model}
                                                                      for task, model in finetuned.items()}))  # fmt: skip
    weights = type(inputs).weights
    counted = pytest.MonkeyPatch()
    counted.setattr(
        type(inputs), "weights", lambda self, key: (weights(self, key)[0].as_subclass(Counted), weights(self, key)[1])
    )
    try:
        estimate = estimated_norms(inputs)
    finally:
        counted.undo()
    assert estimate.tolist() == pytest.approx(norms(inputs).tolist(), rel=0.03) and 0 < read < 50_000


@pytest.mark.parametrize("factor,warns", [(1, False), (2.5, False), (4, True), (0, False)])
def test_a_vector_several_times_as_long_as_the_median_is_warned_of(factor, warns):
    sentences = norm_warnings(merge_inputs(stretched(5, {2: factor})))
    assert len(sentences) == warns and all("task2" in sentence and "normalise=norms" in sentence for sentence in sentences)


def test_equal_norms_are_the_median_one_and_a_zero_vector_stays():
    inputs = merge_inputs(stretched(5, {1: 7, 3: 0}))
    lengths = norms(inputs)
    scaled = equalised(inputs)
    total = scaled.slicewise(lambda stack: stack.sum(0))
    expected = sum((vector * (lengths[lengths > 0].median() / length).item() for vector, length in
                    zip(inputs.vectors.values(), lengths) if length), start=0 * total)  # fmt: skip
    assert (total - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("steps", [[], ["method.apply_lines=true"], ["method.apply_svc=true"]])
@pytest.mark.parametrize("name", ["sum", "ties", "TSVM"])
def test_a_merge_of_equal_norms_does_not_depend_on_their_lengths(name, steps):
    method = build_method(compose_config([f"method={name}", *steps, "normalise=norms"]))
    even = merge_inputs(tiny_models(tasks=3))
    longest = int(norms(even).argmax())  # the median stays as it is when this one is longer still
    first, second = (method(inputs)(0.3)["task0"] for inputs in (even, merge_inputs(stretched(3, {longest: 4}))))
    assert (second - first).norm() < 1e-4 * first.norm()


def test_equal_norms_are_advised_where_they_are_accepted():
    inputs = merge_inputs(stretched(5, {2: 4}))
    for name in ("sum", "TSVM", "regmean", "tall_mask", "mag_masking", "TSVC", "emr", "individual", "zeroshot", "single_task"):
        method = build_method(compose_config([f"method={name}"]))
        advised = any("normalise=norms" in sentence for sentence in method.notes(inputs))
        assert advised == method.takes_equal_norms == (name in ("sum", "TSVM", "regmean"))
        if advised:
            mended = build_method(compose_config([f"method={name}", "normalise=norms"])).notes(inputs)
            assert not any("normalise=norms" in sentence for sentence in mended)


def test_what_adds_no_vectors_is_refused():
    for name in ("zeroshot", "TSVC", "tall_mask", "single_task"):
        with pytest.raises(UserError, match="normalise=norms"):
            build_method(compose_config([f"method={name}", "normalise=norms"]))
