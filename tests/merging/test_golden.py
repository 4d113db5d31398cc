"""Against outputs of the papers' released code (tests/files/golden)."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.opening import open_all, open_checkpoint
from src.compact.packing import pack, unpack
from src.merging.engine.inputs import MergeInputs
from src.models.layers import depth_by_name, is_layer_by_name

CASES = sorted((Path(__file__).parent.parent / "files" / "golden").glob("public_*"))
# expected file: options of main.py, and the tolerance (relative Frobenius)
METHODS = {
    "sum": ("method=sum specify_lambda=1.0", 1e-6),
    "sum_k20": ("method=sum method.k=20 specify_lambda=1.0", 1e-6),
    "ties_k20_mean": ("method=ties specify_lambda=1.0", 1e-6),
    "ties_k20_sum": ("method=ties method.agg=sum specify_lambda=1.0", 1e-6),
    "lines_sum_beta0.5": ("method=sum method.apply_lines=True specify_lambda=0.5", 1e-6),
    "lines_ties_k20_mean_beta0.5": ("method=ties method.apply_lines=True specify_lambda=0.5", 1e-6),
    "lines_single_task0_alpha0.3": ("method=single_task method.apply_lines=True specify_lambda=0.3", 1e-6),
    "tsvm": ("method=TSVM specify_lambda=1.0", 1e-5),
    "tsvc_task0": ("method=TSVC", 1e-5),
    "iso_c": ("method=iso_c specify_lambda=1.0", 1e-5),
    "iso_cts": ("method=iso_cts specify_lambda=1.0", 1e-5),
    "svc_sum_a1T": ("method=sum method.apply_svc=True specify_lambda=1.0", 1e-6),
    "svc_tsvm_a1": ("method=TSVM method.apply_svc=True specify_lambda=1.0", 1e-4),
    "actmat": ("method=actmat", 1e-6),
    "actmat_split": ("method=actmat method.attention=split", 1e-6),
    "wudi_closed": ("method=wudi", 1e-6),
    "swudi_t1300_r0.65": ("method=swudi", 1e-6),
    "dc_merge_keep0.05": ("method=dc_merge method.keep=0.05 specify_lambda=1.0", 1e-5),
    "cart_r0.32_l2": ("method=cart method.rank_fraction=0.32 specify_lambda=2.0", 1e-5),
    "star_eta40": ("method=star", 1e-5),
    "subspace_boost_sum_b0.4_packed": (
        "method=subspace_boosting method.beta=0.4 method.attention=packed specify_lambda=1.0",
        1e-5,
    ),
    "subspace_boost_sum_b0.4": ("method=subspace_boosting method.beta=0.4 specify_lambda=1.0", 1e-5),
    "magmax": ("method=magmax specify_lambda=1.0", 0.0),
    "breadcrumbs_b0.2_g0.1": ("method=breadcrumbs method.density=0.2 method.gamma=0.1 specify_lambda=1.0", 1e-6),
    "model_stock": ("method=model_stock", 1e-4),  # a difference of models in float32
    "pcb_vision_r0.05": ("method=pcb method.ratio=0.05 specify_lambda=1.0", 1e-6),
}
FILES = [(case, name) for case in CASES for name in METHODS if (case / f"every8th_{name}.safetensors").exists()]
MASKS = [(case, name) for case in CASES for name in load_file(case / "masks.safetensors")]


@cache
def inputs(case: Path) -> MergeInputs:
    pretrained = open_checkpoint(case / "pretrained.safetensors")
    finetuned = open_all({path.stem: path for path in sorted(case.glob("finetuned_*"))})
    return MergeInputs(pretrained, finetuned, depth_by_name(pretrained), is_layer_by_name, torch.device("cpu"), keep=False)


def vectors(case: Path, options: str) -> dict:
    config = compose_config(options.split())
    method = build_method(config)
    tasks = len(inputs(case).tasks)
    coefficient = config.specify_lambda if config.specify_lambda is not None else method.coefficients(tasks)[0]
    return method(inputs(case))(coefficient)


@pytest.mark.parametrize("case,name", FILES, ids=lambda value: getattr(value, "name", value))
def test_a_method_gives_what_the_papers_code_gives(case: Path, name: str):
    options, tolerance = METHODS[name]
    vector = vectors(case, options)["finetuned_0"]
    expected = load_file(case / f"every8th_{name}.safetensors")
    assert all(not vector[key].any() for key in vector.keys() - expected.keys())
    assert distance({key: vector[key].flatten()[::8] for key in expected}, expected) <= tolerance


def test_truncated_matrices_add_up_to_what_the_papers_code_gives():
    case = CASES[0]
    tasks = vectors(case, "method=TSVC").values()
    expected = load_file(case / "every8th_tsv_low_rank_sum.safetensors")
    share = {key: 1 if leaf.ndim == 2 else 1 / len(tasks) for key, leaf in inputs(case).outline.items()}
    sums = {key: sum(vector[key].flatten()[::8] for vector in tasks) * share[key] for key in expected}
    assert distance(sums, expected) <= 1e-5


@pytest.mark.parametrize("case,name", MASKS, ids=lambda value: getattr(value, "name", value))
def test_masks_are_those_of_the_papers_code_to_the_bit(case: Path, name: str):
    """A masked vector is the base's where the mask is on, and zero elsewhere: every bit is seen where the base moves."""
    ties = "ties" in name
    base = vectors(case, "method=ties method.agg=sum specify_lambda=1.0" if ties else "method=sum specify_lambda=1.0")[
        "finetuned_0"
    ]
    if name.startswith("consensus"):
        threshold = name.rpartition("_k")[2]
        options = f"method=consensus method.mask_lambda=0.4 method.prun_thre_k={threshold} specify_lambda=1.0"
    elif name.startswith("tall_mask"):
        options = f"method=tall_mask specify_lambda={name.split('lambda')[1].partition('_')[0]}"
    else:
        options = "method=mag_masking"
    if ties:
        options += " method.use_ties=True"
    task = f"finetuned_{name.rpartition('task')[2]}" if "_task" in name else "finetuned_0"
    got = vectors(case, options)[task]
    keys = sorted(base)
    whole = torch.cat([base[key].flatten() for key in keys])
    on = unpack(load_file(case / "masks.safetensors")[name], len(whole))
    assert torch.equal(torch.cat([got[key].flatten() for key in keys]), torch.where(on, whole, 0.0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_elected_vector_and_masks_are_those_of_the_papers_code_to_the_bit(case: Path):
    models = inputs(case)
    compact = build_method(compose_config(["method=emr"]))(models).compact({})
    expected = load_file(case / "every8th_emr.safetensors")
    assert not any(leaf.any() for key, leaf in expected.items() if key not in compact.shared)
    assert all(torch.equal(compact.shared[key].flatten()[::8], expected[key]) for key in compact.shared)
    saved, masks = load_file(case / "emr_masks.safetensors"), compact.masks()
    for number, task in enumerate(models.tasks):
        bits = [unpack(masks[task][key], leaf.numel()) if key in masks[task] else torch.zeros(leaf.numel(), dtype=torch.bool)
                for key, leaf in sorted(models.outline.items())]  # fmt: skip
        assert torch.equal(pack(torch.cat(bits)), saved[f"task{number}"])
        assert compact.parts[task]["scale"].item() == pytest.approx(saved["rescale"][number].item(), rel=1e-6)


def distance(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    error = sum((got[key] - leaf).double().square().sum() for key, leaf in expected.items())
    return float((error / sum(leaf.double().square().sum() for leaf in expected.values())) ** 0.5)


def test_both_cases_are_there():
    assert [case.name for case in CASES] == ["public_t3", "public_t4"] and len(FILES) == 35 and len(MASKS) == 33
