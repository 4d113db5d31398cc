"""Against outputs of the papers' released code (tests/data/golden)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.checkpoints import open_all, open_checkpoint
from src.merging.ingredients import Ingredients
from src.merging.lines import LiNeS
from src.merging.single_task import SingleTask
from src.merging.sum import Sum
from src.merging.ties import Ties
from src.models.blocks import depth_by_name

CASES = sorted((Path(__file__).parent.parent / "data" / "golden").glob("public_*"))
SUM, TIES = Sum(k=100, grid=[1.0]), Ties(k=20, agg="mean", grid=[1.0])
SINGLE = SingleTask(task_index=0, tradeoff_target_weight=2, floors=[1.0])
METHODS = {
    "sum": (SUM, 1.0, 1e-6),
    "sum_k20": (Sum(k=20, grid=[1.0]), 1.0, 1e-6),
    "ties_k20_mean": (TIES, 1.0, 1e-6),
    "ties_k20_sum": (Ties(k=20, agg="sum", grid=[1.0]), 1.0, 1e-6),
    "lines_sum_beta0.5": (LiNeS(SUM), 0.5, 1e-6),
    "lines_ties_k20_mean_beta0.5": (LiNeS(TIES), 0.5, 1e-6),
    "lines_single_task0_alpha0.3": (SINGLE.by_depth(), 0.3, 1e-6),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_what_the_papers_code_gives(case: Path, name: str):
    method, coefficient, tolerance = METHODS[name]
    pretrained = open_checkpoint(case / "pretrained.safetensors")
    finetuned = open_all({path.stem: path for path in sorted(case.glob("finetuned_*"))})
    given = Ingredients(pretrained, finetuned, depth_by_name(pretrained), torch.device("cpu"), keep=False)
    vector = method(given)(coefficient)["finetuned_0"]
    expected = load_file(case / f"every8th_{name}.safetensors")
    assert expected.keys() == vector.keys()
    error = sum((vector[key].flatten()[::8] - leaf).double().square().sum() for key, leaf in expected.items())
    size = sum(leaf.double().square().sum() for leaf in expected.values())
    assert (error / size) ** 0.5 <= tolerance


def test_both_cases_are_there():
    assert [case.name for case in CASES] == ["public_t3", "public_t4"]
