"""Adapters that a merge writes are the merged model: as peft loads them, and as they are read here."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from merging import merge
from src.checkpoints.opening import open_finetuned
from src.errors import UserError
from tests.checkpoints.test_peft import CASES, LINEAR, Gpt, Tiny, lora, random_adapter
from tests.helpers.adapters import pretrained_model, random_factors, save_adapter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # peft's, and what merges note
CONFIG = "adapter_config.json"


def adapters_of(kind, configs: list, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Path]]:
    """Return a model, and folders of random adapters of it."""
    paths = {}
    for number, config in enumerate(configs):
        adapted, pretrained = random_adapter(kind, config)
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for leaf in adapted.parameters():
                if leaf.requires_grad:
                    leaf.copy_(0.3 * torch.randn(leaf.shape, generator=draw))
        paths[f"task{number}"] = folder / f"task{number}"
        adapted.save_pretrained(paths[f"task{number}"])
    return pretrained, paths


def loaded_by_peft(kind, pretrained: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Return the entries of the model that peft makes of an adapter."""
    model = kind()
    model.load_state_dict(pretrained)
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload().state_dict()


def assert_close(got, expected) -> None:
    for key, leaf in expected.items():
        torch.testing.assert_close(got[key], leaf, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("space", ["core", "knots"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if "expert" not in case and "dora" not in case and case != "convolutions"]
)
def test_the_written_adapter_is_the_merged_model_as_peft_loads_it_and_as_it_is_read_here(case, space, tmp_path):
    kind, config = CASES[case]
    other = copy.deepcopy(config)
    other.lora_alpha = 5
    pretrained, paths = adapters_of(kind, [config, other], tmp_path)
    expected = merge("sum", pretrained, paths, coefficient=0.7, space="full")
    merge("sum", pretrained, paths, coefficient=0.7, space=space, output=tmp_path / "out", output_kind="adapter")
    assert_close(loaded_by_peft(kind, pretrained, tmp_path / "out"), expected)
    assert_close(open_finetuned(tmp_path / "out", pretrained), expected)


def test_adapters_of_other_layers_and_ranks_give_each_layer_the_rank_that_it_needs(tmp_path):
    configs = [lora(target_modules=LINEAR), lora(target_modules=["c_fc", "attn"], rank_pattern={"c_fc": 1})]
    pretrained, paths = adapters_of(Tiny, configs, tmp_path)
    expected = merge("iso_c", pretrained, paths, coefficient=1)
    merge("iso_c", pretrained, paths, coefficient=1, output=tmp_path / "out", output_kind="adapter")
    assert_close(loaded_by_peft(Tiny, pretrained, tmp_path / "out"), expected)
    settings = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert settings["r"] == settings["lora_alpha"] == 3
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {"^mlp\\.c_proj": 2, "^mlp\\.square": 2, "^attn": 2}


@pytest.mark.parametrize("kind", [Tiny, Gpt])
def test_a_whole_model_is_written_by_the_leading_directions_of_its_matrices_and_its_other_entries(kind, tmp_path):
    pretrained = {key: leaf.clone() for key, leaf in kind().state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    tuned = {key: leaf + torch.randn(leaf.shape, generator=draw) if leaf.is_floating_point() else leaf
             for key, leaf in pretrained.items()}  # fmt: skip
    tuned["norm.running_var"] = tuned["norm.running_var"].abs() if "norm.running_var" in tuned else torch.empty(0)
    tuned = {key: tuned[key] for key in pretrained}
    options = {"coefficient": 1, "output_kind": "adapter"}
    merge("sum", pretrained, {"a": tuned}, output=tmp_path / "whole", rank=12, **options)
    assert_close(loaded_by_peft(kind, pretrained, tmp_path / "whole"), tuned)
    with pytest.warns(UserWarning, match=r"rank=1 keeps \d\d\.\d %"):
        merge("sum", pretrained, {"a": tuned}, output=tmp_path / "thin", rank=1, **options)
    thin, name = loaded_by_peft(kind, pretrained, tmp_path / "thin"), "mlp.c_fc.weight" if kind is Tiny else "c_attn.weight"
    left, values, right = torch.linalg.svd(tuned[name] - pretrained[name])
    torch.testing.assert_close(thin[name] - pretrained[name], values[0] * left[:, :1] @ right[:1], rtol=1e-4, atol=1e-5)


def test_rank_truncates_what_adapters_span(tmp_path):
    pretrained = pretrained_model()
    paths = [save_adapter(tmp_path / name, random_factors(seed, block_0=2), r=2) for name, seed in (("a", 1), ("b", 2))]
    change = merge("sum", pretrained, paths, coefficient=1, output_kind="task_vector")["blocks.0.w.weight"]
    merge("sum", pretrained, paths, coefficient=1, space="core", output=tmp_path / "out", output_kind="adapter", rank=3)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    up, down = (weights[f"base_model.model.blocks.0.w.lora_{letter}.weight"] for letter in "BA")
    left, values, right = torch.linalg.svd(change)
    assert down.shape == (3, 6)
    torch.testing.assert_close(up @ down, left[:, :3] * values[:3] @ right[:3], rtol=1e-4, atol=1e-5)


def test_the_written_adapter_names_the_model_of_the_adapters_and_replaces_itself_alone(tmp_path):
    pretrained, out = pretrained_model(), tmp_path / "out"
    paths = [save_adapter(tmp_path / name, random_factors(seed, block_0=1), base_model_name_or_path="our/base")
             for name, seed in (("a", 1), ("b", 2))]  # fmt: skip
    for _ in range(2):
        merge("iso_c", pretrained, paths, coefficient=1, output=out, output_kind="adapter")
    assert json.loads((out / CONFIG).read_text())["base_model_name_or_path"] == "our/base"
    with pytest.raises(UserError, match=r"would overwrite an input"):
        merge("iso_c", pretrained, paths, coefficient=1, output=paths[0], output_kind="adapter")


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({}, r"merges whole matrices, of any rank; give method\.space=core, or rank=R"),
        ({"space": "full"}, r"give method\.space=core, or rank=R"),
        ({"rank": 0}, "rank is a positive whole number"),
        ({"rank": 2, "output_kind": "model"}, "rank is of an adapter"),
        ({"rank": 2, "output": "out.safetensors"}, "an adapter is a folder"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_before_any_work(options, sentence, tmp_path):
    paths = [save_adapter(tmp_path / name, random_factors(1, block_0=1)) for name in ("a", "b")]
    settings = {"output": "out", "output_kind": "adapter", **options}
    with pytest.raises(UserError, match=sentence):
        merge("sum", pretrained_model(), paths, coefficient=1, **{**settings, "output": tmp_path / settings["output"]})
    assert not (tmp_path / "out").exists()


def test_a_method_that_makes_a_model_a_task_writes_no_adapter(tmp_path):
    model = pretrained_model()
    with pytest.raises(UserError, match="makes a model for each task, and an adapter is of one"):
        merge("TSVC", model, {"a": model}, output=tmp_path / "out", output_kind="adapter", rank=1)
    with pytest.raises(UserError, match="changes no matrix that an adapter could hold"):
        merge("sum", model, {"a": model}, coefficient=1, output=tmp_path / "out", output_kind="adapter", rank=1)
