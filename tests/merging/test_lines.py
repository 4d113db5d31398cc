import pytest
import torch

from command_line.build import build_method
from command_line.config import compose_config
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import LiNeS
from src.merging.single_task import SingleTask
from src.merging.sum import Sum
from src.merging.ties import Ties
from src.models.layers import depth_by_name
from src.runtime.patterns import TimeLimit
from tests.conftest import merge_inputs, tiny_models


def test_a_sum_is_scaled_from_one_over_t_up(inputs):
    plain = Sum(k=100, grid=[1.0])(inputs)(1.0)["task0"]
    scaled = LiNeS(Sum(k=100, grid=[1.0]))(inputs)(0.6)["task0"]
    for key, scale in (
        ("embed.weight", 1 / 3),
        ("blocks.0.w", 1 / 3),
        ("blocks.1.b", 1 / 3 + 0.3),
        ("blocks.2.w", 1 / 3 + 0.6),
    ):
        torch.testing.assert_close(scaled[key], plain[key] * scale)


def test_alpha_makes_up_for_what_ties_takes_away(inputs):
    ties = Ties(k=20, agg="mean", grid=[1.0])
    total = Sum(k=100, grid=[1.0])(inputs)(1.0)["task0"]
    merged = ties(inputs)(1.0)["task0"]
    scaled = LiNeS(ties)(inputs)(0.0)["task0"]
    alpha = total.norm(1) / merged.norm(1) / 3
    assert alpha > 1 / 3
    torch.testing.assert_close(scaled["head.bias"], merged["head.bias"] * alpha)


def test_trimmed_sums_are_measured_against_what_they_sum(inputs):
    lines = LiNeS(Sum(k=20, grid=[1.0]))(inputs)
    assert lines.scale(0.0, None) == pytest.approx(1 / 3)


def test_a_single_task_keeps_its_deepest_block_whole(inputs):
    plain = inputs.vectors["task1"]
    method = SingleTask(task_index=1, tradeoff_target_weight=2, floors=[1.0]).lines_form()
    scaled = method(inputs)(0.2)["task0"]
    for key, scale in (("embed.weight", 0.2), ("blocks.0.w", 0.2), ("blocks.1.w", 0.6), ("blocks.2.b", 1.0)):
        torch.testing.assert_close(scaled[key], plain[key] * scale)


def test_vectors_of_zeros_stay_zero():
    pretrained, _ = tiny_models()
    same = {"a": dict(pretrained), "b": dict(pretrained)}
    vector = LiNeS(Sum(k=100, grid=[1.0]))(merge_inputs((pretrained, same)))(0.5)["a"]
    assert not any(leaf.any() for leaf in vector.values())


@pytest.mark.parametrize(
    "keys,expected",
    [
        (["model.visual.transformer.resblocks.0.ln.w", "model.visual.transformer.resblocks.11.ln.w"], [0.0, 1.0]),
        (["a.layers.0.w", "a.layers.1.w", "a.layers.2.w"], [0.0, 0.5, 1.0]),
        (["encoder.block.0.layer.1.w", "encoder.block.4.layer.0.w", "decoder.block.1.layer.2.w"], [0.0, 1.0, 1.0]),
        (["bert.encoder.layer.3.w", "h.0.w", "h.2.w", "lm_head.w"], [1.0, 0.0, 1.0, None]),
        (["layers.0.w", "norm.w"], [0.0, None]),
    ],
)
def test_depth_is_read_from_usual_names(keys, expected):
    depth = depth_by_name(keys)
    assert [depth(key) for key in keys] == expected


def blocks_of_stages(name: str, *sizes: int) -> list[str]:
    return [name.format(stage, block) for stage, size in enumerate(sizes) for block in range(size)]


@pytest.mark.parametrize(
    "name",
    [
        "trunk.stages.{}.blocks.{}.w",  # ConvNeXt of timm
        "convnext.encoder.stages.{}.layers.{}.dwconv.w",  # of transformers
        "layers.{}.blocks.{}.attn.w",  # Swin
        "stages.{}.blocks.{}.layer.0.w",
        "model.0.stages.{}.blocks.{}.w",
        "blocks.{}.{}.conv.w",  # EfficientNet of timm
        "encoder.block.{}.{}.attn.w",  # SegFormer
        "blocks.{}.layers.{}.layers.MBconv.w",  # MaxViT of torchvision
    ],
)
def test_depth_grows_over_the_stages_of_a_hierarchical_backbone(name):
    keys = blocks_of_stages(name, 3, 3, 9, 3)
    depth = depth_by_name([*keys, "head.w"])
    assert [depth(key) for key in keys] == [number / 17 for number in range(18)] and depth("head.w") is None


def test_what_else_lies_in_a_stage_is_as_deep_as_its_first_block():
    keys = [*blocks_of_stages("stages.{}.blocks.{}.w", 2, 3), "stages.1.downsample.w", "stem.w"]
    depth = depth_by_name(keys)
    assert depth("stages.1.downsample.w") == depth("stages.1.blocks.0.w") == 0.5 and depth("stem.w") is None
    swin = depth_by_name([*blocks_of_stages("layers.{}.blocks.{}.w", 2, 3), "layers.1.downsample.w"])
    assert swin("layers.1.downsample.w") == 0.5


@pytest.mark.parametrize(
    "name", ["net.layers{}.0.blocks.{}.w", "stage{}.blocks.{}.w", "encoder_{}.layers.{}.w", "{}.blocks.{}.w"]
)
def test_stages_by_other_names_are_asked_about(name):
    with pytest.raises(UserError, match=r"method\.depth_pattern"):
        depth_by_name(blocks_of_stages(name, 2, 3))


def test_numbered_parts_that_may_stand_side_by_side_are_asked_about():
    keys = blocks_of_stages("encoder.down.{}.block.{}.w", 2, 2)
    with pytest.raises(UserError, match=r"encoder\.down\.0\.block and encoder\.down\.1\.block .*method\.depth_pattern"):
        depth_by_name(keys)
    one, several = (depth_by_name(keys, pattern) for pattern in (r"down\.(\d+)\.block\.(\d+)", r"down\.\d+\.block\.(\d+)"))
    assert [one(key) for key in keys] == [0, 1 / 3, 2 / 3, 1] and [several(key) for key in keys] == [0, 1, 0, 1]
    only = depth_by_name(["model.0.layers.0.w", "model.0.layers.1.w"])  # a single one is no stage
    assert only("model.0.layers.1.w") == 1


def test_depth_by_a_pattern_of_the_users_own():
    depth = depth_by_name(["stage3/w", "stage1/w", "head/w"], r"stage(\d+)/")
    assert [depth(key) for key in ("stage3/w", "stage1/w", "head/w")] == [1.0, pytest.approx(1 / 3), None]


@pytest.mark.parametrize("pattern", [None, r"stage\d+", "(", r"(conv)"])
def test_no_pattern_is_an_error_and_no_guess(pattern):
    with pytest.raises(UserError, match="depth_pattern"):
        depth_by_name(["conv1.w", "fc.w"], pattern)


def test_a_pattern_that_never_ends_is_a_sentence(monkeypatch):
    monkeypatch.setattr(TimeLimit, "__init__", lambda self: setattr(self, "seconds", 0.1))
    with pytest.raises(UserError, match=r"method\.depth_pattern: .* takes too long to match"):
        depth_by_name(["a" * 40 + "!"], r"((?:a|a)+)+$")


def test_a_decomposition_is_made_once_under_lines():
    inputs, made = merge_inputs(tiny_models(blocks=6)), []
    method = build_method(compose_config(["method=TSVM", "method.apply_lines=True"]))
    real = MergeInputs.stacked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MergeInputs, "stacked", lambda self, key: made.append(key) or real(self, key))
        vector = method(inputs)(0.5)["task0"]
        for key in vector:
            vector[key]
    assert sorted(made) == sorted(key for key in inputs.outline if inputs.is_matrix(key) and inputs.changed(key))
