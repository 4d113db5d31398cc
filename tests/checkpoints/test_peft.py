"""Adapters stand for the models that peft itself merges, and those that are not understood are refused."""

import copy
import json
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.peft.config import CONFIG
from src.checkpoints.peft.dense import adapter_folder, open_adapter
from src.checkpoints.peft.reading import LAST_VERSION_COUNTING_TWICE
from src.checkpoints.writing import save_folder
from src.errors import UserError
from src.state_dict import Lazy

WEIGHTS = "adapter_model.safetensors"


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(3, 10, 4))
        self.down = nn.Parameter(torch.randn(3, 4, 5))


class Tiny(nn.Module):
    """A layer of every kind, with the names that open_clip gives them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
        self.pointwise = nn.Conv2d(3, 4, 1)
        self.line = nn.Conv1d(3, 4, 2)
        self.ln_1 = nn.LayerNorm(4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(4, 6), "c_proj": nn.Linear(6, 4), "square": nn.Linear(4, 4)})
        self.experts = Experts()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.ln_1(x)
        return self.mlp["c_proj"](self.mlp["c_fc"](x + self.attn(x, x, x, need_weights=False)[0]))


class Gpt(nn.Module):
    """Layers whose weights are (inputs, outputs)."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj, self.head = Conv1D(12, 4), Conv1D(4, 4), nn.Linear(4, 7)


LINEAR = ["c_fc", "c_proj", "square"]
lora = partial(LoraConfig, r=2, lora_alpha=3)
CASES = {
    "linear": (Tiny, lora(target_modules=LINEAR)),
    "targets by pattern": (Tiny, lora(target_modules=r"mlp\..*")),
    "convolutions": (Tiny, lora(target_modules=["conv1", "pointwise", "line"])),
    "embedding": (Tiny, lora(target_modules=["table"])),
    "attention": (Tiny, lora(target_modules=["attn"])),
    "attention and biases": (Tiny, lora(target_modules=["attn", "c_fc", "conv1"], bias="lora_only")),
    "attention by its patterns": (Tiny, lora(target_modules=["attn"], rank_pattern={"attn": 3}, alpha_pattern={"attn": 7})),
    "projection": (Tiny, lora(target_modules=["attn.out_proj"])),
    "all biases": (Tiny, lora(target_modules=["attn", "c_fc"], bias="all")),
    "rank-stabilized": (Tiny, lora(target_modules=["attn", "table", "c_fc"], use_rslora=True)),
    "patterns": (Tiny, lora(target_modules=LINEAR, rank_pattern={"mlp.c_fc": 3, "c_.*": 1}, alpha_pattern={"^mlp.square": 5})),
    "modules to save": (Tiny, lora(target_modules=["c_fc"], modules_to_save=["head", "norm"])),
    "modules to save and biases": (Tiny, lora(target_modules=["c_fc"], modules_to_save=["head"], bias="all")),
    "attention to save": (Tiny, lora(target_modules=["c_fc"], modules_to_save=["attn"])),
    "dora": (Tiny, lora(target_modules=[*LINEAR, "conv1", "line", "table"], use_dora=True)),
    "parameters": (Tiny, lora(target_modules=[], target_parameters=["attn.in_proj_weight", "c_fc.weight"])),
    "experts": (Tiny, lora(target_modules=["square"], target_parameters=["experts.gate_up", "experts.down"])),
    "expert patterns": (Tiny, lora(target_modules=[], target_parameters=["experts.down"], rank_pattern={"experts.down": 3})),
    "transposed": (Gpt, lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "transposed dora": (Gpt, lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True)),
    "orthogonal start": (Tiny, lora(target_modules=LINEAR, init_lora_weights="orthogonal")),
}  # fmt: skip


def random_adapter(kind, config, dtype=torch.float32) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Return a peft model whose trainable entries are all random, and the entries of the model it adapts."""
    torch.manual_seed(0)
    model = kind().to(dtype)
    pretrained = {key: leaf.clone() for key, leaf in model.state_dict().items()}
    adapted = get_peft_model(model, copy.deepcopy(config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape))
    return adapted, pretrained


def save_adapter(folder: Path, entries: dict[str, torch.Tensor], **settings) -> Path:
    """Write a folder as peft does; return it."""
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{key}": leaf for key, leaf in entries.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, **settings}))
    return folder


def factors(module: str, outputs: int, inputs: int, rank: int = 1) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_A.weight": torch.ones(rank, inputs), f"{module}.lora_B.weight": torch.ones(outputs, rank)}


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # peft warns of parameters, and uses them
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_stands_for_the_model_that_peft_merges(case, tmp_path):
    adapted, pretrained = random_adapter(*CASES[case])
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    before = {key: leaf.clone() for key, leaf in pretrained.items()}
    opened = open_adapter(tmp_path / "adapter", pretrained)
    assert adapter_folder(tmp_path / "adapter") and list(opened) == list(pretrained) == list(opened.outline)
    names = {
        key.removeprefix("base_model.model.").replace(".base_layer", "") for key in load_file(tmp_path / "adapter" / WEIGHTS)
    }
    for key, leaf in opened.items():
        assert leaf.dtype == pretrained[key].dtype and torch.equal(before[key], pretrained[key]), key
        torch.testing.assert_close(leaf, merged[key], rtol=1e-6, atol=1e-6)
        if torch.equal(merged[key], pretrained[key]) and key not in names:
            assert leaf.data_ptr() == pretrained[key].data_ptr(), f"{key} was copied"
    assert any(not torch.equal(leaf, pretrained[key]) for key, leaf in opened.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_entries_keep_their_dtype_and_are_summed_in_a_wide_one(dtype, tmp_path):
    adapted, pretrained = random_adapter(*CASES["dora"], dtype)
    adapted.save_pretrained(tmp_path / "adapter")
    opened = open_adapter(tmp_path / "adapter", pretrained)
    wide = torch.promote_types(dtype, torch.float32)
    exact = open_adapter(tmp_path / "adapter", {key: leaf.to(wide) for key, leaf in pretrained.items()})
    assert all(
        leaf.dtype == pretrained[key].dtype and torch.equal(leaf, exact[key].to(leaf.dtype)) for key, leaf in opened.items()
    )
    merged = adapted.merge_and_unload().state_dict()
    for key, leaf in opened.items():
        torch.testing.assert_close(leaf, merged[key], rtol=0.03 if wide != dtype else 1e-6, atol=0.03 if wide != dtype else 1e-6)


def test_a_product_is_scaled_by_alpha_over_rank_and_transposed_where_the_entry_is(tmp_path):
    entries = {
        "a.lora_A.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        "a.lora_B.weight": torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
    }
    pretrained = {"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3)}
    opened = open_adapter(save_adapter(tmp_path / "plain", entries, r=2, lora_alpha=4), pretrained)
    assert opened["a.weight"].tolist() == [[7.0, 13.0], [1.0, 3.0], [1.0, 1.0]]
    stabilized = open_adapter(
        save_adapter(tmp_path / "stabilized", factors("a", 3, 2, rank=4), r=4, lora_alpha=6, use_rslora=True), pretrained
    )
    assert stabilized["a.weight"].unique().tolist() == [1 + 6 / 2 * 4]
    transposed = open_adapter(tmp_path / "plain", {"a.weight": torch.ones(2, 3)})
    assert transposed["a.weight"].tolist() == [[7.0, 1.0, 1.0], [13.0, 3.0, 1.0]]


def test_with_dora_the_weights_of_each_output_have_its_magnitude(tmp_path):
    entries = {**factors("a", 3, 2), "a.lora_magnitude_vector": torch.tensor([1.0, 2.0, 3.0])}
    opened = open_adapter(save_adapter(tmp_path / "adapter", entries, use_dora=True), {"a.weight": torch.zeros(3, 2)})
    torch.testing.assert_close(opened["a.weight"], torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2) / 2**0.5)


def test_how_peft_names_attention_and_how_often_it_adds_the_projection(tmp_path):
    adapted, pretrained = random_adapter(Tiny, lora(target_modules=["attn"], bias="all"))
    x = torch.randn(1, 3, 4)
    with torch.no_grad():
        unmerged = adapted(x)
    adapted.save_pretrained(tmp_path / "adapter")
    attention = {key: tuple(leaf.shape) for key, leaf in load_file(tmp_path / "adapter" / WEIGHTS).items() if ".attn." in key}
    assert attention == {
        "base_model.model.attn.lora_A.weight": (2, 4),
        "base_model.model.attn.lora_B.weight": (12, 2),
        "base_model.model.attn.base_layer.out_proj.lora_A.weight": (2, 4),
        "base_model.model.attn.base_layer.out_proj.lora_B.weight": (4, 2),
        "base_model.model.attn.base_layer.out_proj.base_layer.bias": (4,),
    }
    opened = open_adapter(tmp_path / "adapter", pretrained)
    dense = Tiny()
    dense.load_state_dict(dict(opened))
    torch.testing.assert_close(dense(x).detach(), unmerged, rtol=1e-4, atol=1e-4)
    raw = load_file(tmp_path / "adapter" / WEIGHTS)
    down, up = (raw[f"base_model.model.attn.base_layer.out_proj.lora_{letter}.weight"] for letter in "AB")
    torch.testing.assert_close(opened["attn.out_proj.weight"] - pretrained["attn.out_proj.weight"], 2 * 1.5 * (up @ down))
    settings = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    for version in ("0.22.0", "nightly", "9" * 5000 + ".0.0"):
        (tmp_path / "adapter" / CONFIG).write_text(json.dumps({**settings, "peft_version": version}))
        with pytest.raises(UserError, match=f"peft {version[:9]}.*twice.*merge it"):
            open_adapter(tmp_path / "adapter", pretrained)
    assert tuple(map(int, peft.__version__.split(".")[:3])) <= LAST_VERSION_COUNTING_TWICE, (
        "see what this peft does, then move the constant"
    )


def test_names_may_contain_the_adapters_and_files_may_be_pickled(tmp_path):
    adapted, pretrained = random_adapter(Tiny, lora(target_modules=["attn", "table", *LINEAR]))
    adapted.save_pretrained(tmp_path / "plain")
    expected = open_adapter(tmp_path / "plain", pretrained)
    raw = {key: leaf.detach() for key, leaf in adapted.state_dict().items() if "lora_" in key}
    assert any("lora_A.default.weight" in key for key in raw) and any(key.endswith("lora_embedding_A.default") for key in raw)
    folder = tmp_path / "named"
    folder.mkdir()
    torch.save(raw, folder / "adapter_model.bin")
    (folder / CONFIG).write_bytes((tmp_path / "plain" / CONFIG).read_bytes())
    opened = open_adapter(folder, pretrained)
    assert all(torch.equal(opened[key], expected[key]) for key in pretrained)
    both = {**raw, **{key.replace("default", "other"): leaf + 1 for key, leaf in raw.items()}}
    torch.save(both, folder / "adapter_model.bin")
    with pytest.raises(UserError, match="several ways"):
        open_adapter(folder, pretrained)


def test_a_checkpoint_lists_its_files_and_computes_only_what_is_read(tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), **factors("zero", 3, 2)})
    save_file({**load_file(folder / WEIGHTS), "base_model.model.zero.lora_B.weight": torch.zeros(3, 1)}, folder / WEIGHTS)
    pretrained = {f"{name}.weight": torch.zeros(3, 2, dtype=torch.bfloat16) for name in ("a", "zero", "other")}
    keys = []
    opened = open_adapter(folder, Lazy(pretrained, lambda key: keys.append(key) or pretrained[key]), "digest")
    assert opened.path == folder and opened.files == [folder / WEIGHTS, folder / CONFIG] and opened.base_digest == "digest"
    assert keys == [] and opened["a.weight"].dtype == torch.bfloat16 and keys == ["a.weight"]
    assert all(opened[key].data_ptr() == pretrained[key].data_ptr() for key in ("zero.weight", "other.weight"))
    save_folder(opened, tmp_path / "dense", pretrained)
    dense = open_checkpoint(tmp_path / "dense")
    assert dense.keys() == pretrained.keys() and all(torch.equal(dense[key], opened[key]) for key in pretrained)


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (["visual.a.weight", "visual.b.weight"], "visual.a.weight"),
        (["model.visual.a.weight", "model.visual.b.weight", "model.a.weight"], "model.visual.a.weight"),
        (["a.weight", "b.weight", "model.a.weight", "model.b.weight"], "a.weight"),
    ],
)
def test_a_prefix_may_be_added(names, key, tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), **factors("b", 3, 2), "b.bias": torch.ones(3)})
    pretrained = {name: torch.zeros(3, 2) for name in names}
    pretrained |= {name.replace("weight", "bias"): torch.zeros(3) for name in names if "b." in name}
    opened = open_adapter(folder, pretrained)
    assert [name for name, leaf in opened.items() if leaf.any()] == [
        key,
        key.replace("a.", "b."),
        key.replace("a.weight", "b.bias"),
    ]


def test_a_prefix_may_be_dropped_and_shapes_distinguish_two_towers(tmp_path):
    folder = save_adapter(tmp_path / "whole", {**factors("model.visual.a", 3, 2), **factors("model.visual.b.c", 3, 2)})
    opened = open_adapter(folder, {"a.weight": torch.zeros(3, 2), "b.c.weight": torch.zeros(3, 2)})
    assert all(leaf.all() for leaf in opened.values())
    visual = save_adapter(tmp_path / "visual", factors("blocks.0.a", 3, 2))
    towers = {"blocks.0.a.weight": torch.zeros(4, 2), "visual.blocks.0.a.weight": torch.zeros(3, 2)}
    opened = open_adapter(visual, towers)
    assert opened["visual.blocks.0.a.weight"].all() and not opened["blocks.0.a.weight"].any()


def test_names_that_fit_no_layer_or_several_are_reported(tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), **factors("b", 3, 2), "head.bias": torch.ones(2)})
    with pytest.raises(UserError, match=r"a\.weight.*x\.q\.weight.*give the model"):
        open_adapter(folder, {"x.q.weight": torch.zeros(3, 2)})
    with pytest.raises(UserError, match=r"changes head\.bias, "):
        open_adapter(folder, {"v.a.weight": torch.zeros(3, 2), "v.b.weight": torch.zeros(3, 2)})
    mixed = {"u.a.weight": torch.zeros(3, 2), "v.b.weight": torch.zeros(3, 2), "head.bias": torch.zeros(2)}
    with pytest.raises(UserError, match="which the pre-trained model has not"):
        open_adapter(folder, mixed)
    folder = save_adapter(tmp_path / "two", factors("a", 3, 2))
    with pytest.raises(UserError, match=r"any of 2 layers.*u\.a, v\.a"):
        open_adapter(folder, {"u.a.weight": torch.zeros(3, 2), "v.a.weight": torch.zeros(3, 2)})


def test_shapes_and_ranks_that_differ_are_reported_all_at_once(tmp_path):
    entries = {**factors("a", 3, 2), **factors("b", 3, 2), **factors("c", 3, 2, rank=2), "d.bias": torch.ones(5)}
    folder = save_adapter(tmp_path / "adapter", entries)
    pretrained = {"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(3, 2, dtype=torch.int8), "c.weight": torch.zeros(3, 2)}
    with pytest.raises(UserError) as excinfo:
        open_adapter(folder, {**pretrained, "d.bias": torch.zeros(4)})
    message = str(excinfo.value)
    for word in (r"d.bias has shape (4,), and (5,)", "a.weight ((4, 4)", "torch.int8", "1 entry more"):
        assert word in message, message
    pretrained |= {"a.weight": torch.zeros(3, 2), "b.weight": torch.zeros(3, 2), "d.bias": torch.zeros(5)}
    with pytest.raises(UserError, match=r"the factors of c have rank 2, and adapter_config\.json says 1"):
        open_adapter(folder, pretrained)


def test_patterns_whose_order_is_lost_are_not_guessed(tmp_path):
    table = {"b.*": 2, "a.b": 3}
    folder = save_adapter(tmp_path / "ranks", {**factors("a.b", 3, 2, rank=3), **factors("a.c", 3, 2)}, rank_pattern=table)
    opened = open_adapter(folder, {"a.b.weight": torch.zeros(3, 2), "a.c.weight": torch.zeros(3, 2)})
    assert opened["a.b.weight"].eq(1).all() and opened["a.c.weight"].eq(1).all()
    folder = save_adapter(tmp_path / "alphas", factors("a.b", 3, 2), alpha_pattern=table)
    with pytest.raises(UserError, match=r"a\.b has several alphas.*\[2, 3\]"):
        open_adapter(folder, {"a.b.weight": torch.zeros(3, 2)})


def test_the_orientation_of_squares_is_not_guessed(tmp_path):
    folder = save_adapter(tmp_path / "mixed", {**factors("a", 3, 2), **factors("b", 2, 2)}, fan_in_fan_out=True)
    with pytest.raises(UserError, match=r"b\.weight is square"):
        open_adapter(folder, {"a.weight": torch.zeros(3, 2), "b.weight": torch.zeros(2, 2)})
    assert open_adapter(folder, {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(2, 2)})["b.weight"].all()
    entries = {"e.lora_A.weight": torch.ones(3, 2), "e.lora_B.weight": torch.ones(2, 3)}
    square = save_adapter(tmp_path / "square", entries, target_parameters=["e.w", "e.v"])
    with pytest.raises(UserError, match=r"e\.w is square"):
        open_adapter(square, {"e.w": torch.zeros(3, 2, 2)})
    with pytest.raises(UserError, match="fit several of"):
        open_adapter(square, {"e.w": torch.zeros(3, 2, 2), "e.v": torch.zeros(3, 2, 2)})


def test_two_changes_of_one_entry_are_refused(tmp_path):
    adapted, pretrained = random_adapter(Tiny, lora(target_modules=["attn", "out_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"both change attn\.out_proj\.weight.*merge_and_unload"):
        open_adapter(tmp_path / "adapter", pretrained)


def test_an_entry_that_overflows_is_named(tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), "a.bias": torch.full((3,), 1e6)}, lora_alpha=65000)
    shapes = {"a.weight": (3, 2), "a.bias": (3,)}
    opened = open_adapter(folder, {key: torch.full(shape, 1000.0, dtype=torch.float16) for key, shape in shapes.items()})
    for key in shapes:
        with pytest.raises(UserError, match=rf"{key}.*overflows torch\.float16"):
            opened[key]


@pytest.mark.parametrize(
    "config",
    [
        peft.IA3Config(target_modules=["c_fc"], feedforward_modules=["c_fc"]),
        peft.LoHaConfig(target_modules=["c_fc"]),
        peft.AdaLoraConfig(target_modules=["c_fc"], total_step=10),
        peft.VeraConfig(target_modules=["c_fc"], r=2),
    ],
    ids=lambda config: str(config.peft_type.value),
)
def test_other_methods_are_refused_by_name(config, tmp_path):
    model = Tiny()
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=rf"{CONFIG} is of the kind {config.peft_type.value}.*merge_and_unload"):
        open_adapter(tmp_path / "adapter", Tiny().state_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"some_new_variant": {"x": 1}}, "some_new_variant"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"alpha_pattern": {"(": 1}}, "patterns"),
        ({"rank_pattern": [1]}, "patterns"),
        ({"rank_pattern": {"(?i)x": 1}}, "patterns"),
        ({"lora_alpha": 10**400}, "patterns"),
        ({"target_parameters": True}, "list of names"),
        ({"target_parameters": "a.weight"}, "list of names"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_are_not_understood_are_refused(settings, words, tmp_path):
    folder = save_adapter(tmp_path / "adapter", factors("a", 3, 2), **settings)
    with pytest.raises(UserError, match=CONFIG) as excinfo:
        open_adapter(folder, {"a.weight": torch.zeros(3, 2)})
    assert words in str(excinfo.value)
    assert any(advice in str(excinfo.value) for advice in ("merge_and_unload", "copy the adapter again"))


def test_factors_are_those_that_the_settings_ask_for(tmp_path):
    pretrained, magnitude = {"a.weight": torch.zeros(3, 2)}, {"a.lora_magnitude_vector": torch.ones(3)}
    for name, entries, settings in (
        ("plain", {}, {"use_dora": True}),
        ("dora", magnitude, {}),
        ("lone", {"b.lora_A.weight": torch.ones(1, 2)}, {}),
        ("both", {"a.lora_embedding_A": torch.ones(1, 2), "a.lora_embedding_B": torch.ones(3, 1)}, {}),
    ):
        folder = save_adapter(tmp_path / name, {**factors("a", 3, 2), **entries}, **settings)
        with pytest.raises(UserError, match=r"without the pair of factors.*\([ab] has lora_.*merge_and_unload"):
            open_adapter(folder, pretrained)
    short = save_adapter(tmp_path / "short", {**factors("a", 3, 2), "a.lora_magnitude_vector": torch.ones(2)}, use_dora=True)
    with pytest.raises(UserError, match="do not fit any"):
        open_adapter(short, pretrained)


@pytest.mark.parametrize("key", ["a.lora_diag", "a.lora_B.bias", "a.lora_E"])
def test_entries_that_are_not_understood_are_refused(key, tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), key: torch.ones(3)})
    with pytest.raises(UserError, match=rf"not known here \(base_model\.model\.{key}\)"):
        open_adapter(folder, {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3)})


def test_folders_that_cannot_be_read_are_reported_with_what_to_do(tmp_path):
    pretrained = {"a.weight": torch.zeros(3, 2)}
    partial_file = save_adapter(tmp_path / "partial", factors("a", 3, 2))
    (partial_file / WEIGHTS).write_bytes((partial_file / WEIGHTS).read_bytes()[:-3])
    bare = save_adapter(tmp_path / "bare", factors("a", 3, 2))
    (bare / WEIGHTS).unlink()
    garbled = save_adapter(tmp_path / "garbled", factors("a", 3, 2))
    (garbled / CONFIG).write_text("{")
    lone = save_adapter(tmp_path / "lone", {"a.lora_A.weight": torch.ones(1, 2)})
    empty = save_adapter(tmp_path / "empty", {})
    copies = save_adapter(tmp_path / "copies", {"a.original_module.weight": torch.ones(3, 2)})
    for folder, words in (
        (partial_file, "truncated"),
        (bare, "without weights"),
        (garbled, "json"),
        (lone, r"a has lora_A\)"),
        (empty, "no entries"),
        (copies, "no entries"),
    ):
        with pytest.raises(UserError, match=words) as excinfo:
            open_adapter(folder, pretrained)
        assert str(folder) in str(excinfo.value) and "again" in str(excinfo.value)
    (bare / CONFIG).write_text("[]")
    with pytest.raises(UserError) as excinfo:
        open_adapter(bare, pretrained)
    assert len(excinfo.value.problems) == 2
    assert not adapter_folder(tmp_path)
    partitioned = save_adapter(tmp_path / "partitioned", {"a.lora_A.weight": torch.ones(0), "a.lora_B.weight": torch.tensor(1.0)})
    with pytest.raises(UserError, match="do not fit any"):
        open_adapter(partitioned, pretrained)


def test_a_whole_entry_of_another_kind_of_number_is_not_rounded(tmp_path):
    folder = save_adapter(tmp_path / "adapter", {**factors("a", 3, 2), "a.bias": torch.full((3,), 1.7)})
    with pytest.raises(UserError, match=r"a\.bias is torch\.int64, and torch\.float32"):
        open_adapter(folder, {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3, dtype=torch.int64)})


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_adapter(tmp_path / "adapter", factors("a", 3, 2))
    (folder / WEIGHTS).unlink()
    torch.save({"a": torch.ones(1), "trap": Trap()}, folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"io\.open"):
        open_adapter(folder, {"a.weight": torch.zeros(3, 2)})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_what_changes_is_the_product_of_factors_or_is_said_to_be_none(case, tmp_path):
    adapted, pretrained = random_adapter(*CASES[case])
    adapted.save_pretrained(tmp_path / "adapter")
    opened = open_adapter(tmp_path / "adapter", pretrained)
    changes = opened.adapter
    assert (changes.factors or changes.others) and not changes.factors.keys() & changes.others
    for key, leaf in opened.items():
        if key in changes.factors:
            assert leaf.ndim == 2
            torch.testing.assert_close(changes.factors[key].product, leaf - pretrained[key], rtol=1e-5, atol=1e-5)
        elif key not in changes.others:
            assert leaf.data_ptr() == pretrained[key].data_ptr(), key


@pytest.mark.parametrize("case,others", [("dora", 6), ("convolutions", 3), ("experts", 2), ("linear", 0), ("all biases", 9)])
def test_dora_convolutions_experts_and_whole_entries_have_no_factors(case, others, tmp_path):
    adapted, pretrained = random_adapter(*CASES[case])
    adapted.save_pretrained(tmp_path / "adapter")
    assert len(open_adapter(tmp_path / "adapter", pretrained).adapter.others) == others
