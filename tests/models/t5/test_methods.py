"""Every method of config/method on a text family: the whole model, and the vectors of (IA)^3."""

from functools import partial

import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.elementwise import add_vector
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.statistics import SHAPES
from src.models.family import ModelFamily
from src.statistics.entropy import SampledEntropy
from tests.conftest import random_statistic
from tests.helpers.likely_families import ia3_family, text_family
from tests.helpers.text_models import GoldenTask
from tests.merging.test_methods import METHODS, NEEDED

FAMILIES = {"dense": text_family, "ia3": ia3_family}
OPTIONS = {**NEEDED, "cg": ["method.iterations=3"]}
OF_VECTORS = {"cg": ["method.iterations=3", "method.objective=block_fisher"]}


def merge_inputs(family: ModelFamily) -> MergeInputs:
    """Two models near the pre-trained one, and statistics of them."""
    draw = torch.Generator().manual_seed(0)
    models = {task: {key: leaf + 0.05 * torch.randn(leaf.shape, generator=draw) for key, leaf in family.pretrained.items()}
              for task in ("alpha", "beta")}  # fmt: skip
    tasks = {task: GoldenTask(task) for task in models}
    statistics = {kind: {task: random_statistic(family.pretrained, kind, task) for task in models} for kind in SHAPES}
    return MergeInputs(
        family.pretrained,
        models,
        family.depth,
        family.is_layer,
        family.device,
        True,
        statistics,
        unlabelled=partial(SampledEntropy, family, tasks),
    )


@pytest.mark.parametrize("space", FAMILIES)
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"given"}))  # which needs a file
def test_a_text_model_merges_by_every_method_and_answers(name, space):
    family = FAMILIES[space]()
    inputs = merge_inputs(family)
    options = OF_VECTORS if space == "ia3" and name in OF_VECTORS else OPTIONS
    method = build_method(compose_config([f"method={name}", *options.get(name, [])]))
    coefficient = method.coefficients(2)[0]
    if name in ("regmean", "esm") and space == "ia3":
        with pytest.raises(UserError, match=r"gram_in fits no parameter|gram_in of alpha"):
            method(inputs)(coefficient)
        return
    merged = method(inputs)(coefficient)
    task = GoldenTask("alpha")
    batch = next(family.batches(task, "test", 4, range(4)))
    assert set(merged) == {"alpha", "beta"}
    for vector in merged.values():
        model = dict(add_vector(family.pretrained, vector))
        assert set(model) == set(family.pretrained) and all(leaf.isfinite().all() for leaf in model.values())
        assert family.predictor(model)(batch).shape == (4,)
    if name not in ("zeroshot", "zero-shot"):
        assert any(vector[key].any() for vector in merged.values() for key in vector)
