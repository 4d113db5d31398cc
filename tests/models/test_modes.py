"""Every fine-tuning mode and every choice of what trains, on the demo's model."""

import json

import numpy as np
import pytest
import torch

from command_line.build import build_family, build_mode, build_recipe
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.opening import open_checkpoint, open_finetuned
from src.checkpoints.reading import open_files
from src.data.registry import find_tasks
from src.errors import UserError
from src.models.modes import TRAINS, LowRank, Mode, trained_parameters
from src.runtime.signals import StopRequested
from src.training.loop import TrainingSettings, finetune
from tests.helpers.processes import ROOT
from tests.helpers.progress import SignalAt

MODES = sorted({path.stem for path in (ROOT / "config" / "finetuning_mode").glob("*.yaml")} - {"ia3"})  # which is for text
COUNTS = {"all": 921_408, "attention": 8 * 4 * 96**2, "attention+bias": 8 * (4 * 96**2 + 4 * 96), "mlp": 8 * 2 * 96 * 384,
          "all-linear": 8 * (4 * 96**2 + 2 * 96 * 384)}  # fmt: skip


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    config = compose_config([f"model_location={folder}", f"cache_dir={folder}"])
    clip = build_family(config, paths_of(config), torch.device("cpu"))
    clip.prepare(task())
    return clip


def task():
    return find_tasks(["Arrows"])[0]


def mode_named(name: str, *options: str) -> Mode:
    return build_mode(compose_config([f"finetuning_mode={name}", *options]))


def batch_of(family):
    return next(family.batches(task(), "test", 48, family.spans(task(), "test")[0]))


def recipe():
    return build_recipe(compose_config(["model.recipe.epochs=1", "model.recipe.batch_size=32"]), "Arrows")


class FirstExamples:
    """A task of which only the first examples are trained on."""

    def __init__(self, whole, count):
        self._whole, self._count = whole, count
        self.name, self.classes, self.templates, self.definition = whole.name, whole.classes, whole.templates, whole.definition

    def examples(self, split):
        return torch.utils.data.Subset(self._whole.examples(split), range(self._count))

    def training_examples(self):
        return self.examples("train")

    def fingerprint(self, split):
        return f"{self._count} {self._whole.fingerprint(split)}"


@pytest.mark.parametrize("trains", TRAINS)
def test_what_trains_is_so_many_parameters_and_moves_and_nothing_else_does(family, trains, tmp_path):
    mode = Mode("some", "some", trains, "never", None)
    trainable = family.trainable(mode)
    assert trainable.count == COUNTS[trains] and trainable.total == COUNTS["all"]
    path = tmp_path / "w_finetuned.safetensors"
    finetune(family, FirstExamples(task(), 96), recipe(), mode, path, TrainingSettings())
    tuned, start = open_checkpoint(path), family.pretrained
    changes = {key for key in start if not torch.equal(tuned[key], start[key])}
    assert changes == set(trainable.names) and sum(start[key].numel() for key in changes) == COUNTS[trains]


def test_linear_2_trains_the_attention_matrices_and_its_number_is_printed(family):
    names = family.trainable(mode_named("linear-2")).names
    assert {name.split(".resblocks.")[1].split(".", 1)[1] for name in names} == {"attn.in_proj_weight", "attn.out_proj.weight"}
    assert len(names) == 16


def test_vit_b_32_would_train_the_papers_number_of_parameters():
    """Of ViT-B/32, by the shapes of its names: 12 blocks of width 768."""
    block = {"attn.in_proj_weight": (2304, 768), "attn.in_proj_bias": (2304,), "attn.out_proj.weight": (768, 768),
             "attn.out_proj.bias": (768,), "ln_1.weight": (768,), "ln_1.bias": (768,), "mlp.c_fc.weight": (3072, 768),
             "mlp.c_fc.bias": (3072,), "mlp.c_proj.weight": (768, 3072), "mlp.c_proj.bias": (768,)}  # fmt: skip
    entries = {f"v.blocks.{number}.{name}": torch.empty(shape, device="meta")
               for number in range(12) for name, shape in block.items()}  # fmt: skip
    names = {trains: trained_parameters(entries, r"v\.blocks\.\d+\.", trains) for trains in TRAINS}
    counts = {trains: sum(entries[key].numel() for key in names[trains]) for trains in TRAINS}
    assert counts["attention"] == 28_311_552 and counts["attention+bias"] == 28_311_552 + 12 * 4 * 768
    assert counts["mlp"] == 56_623_104 and counts["all-linear"] == 84_934_656


def test_norms_inside_attention_are_no_linear_layers_and_unknown_architectures_are_refused():
    entries = {name: torch.empty(shape) for name, shape in
               {"b.0.attn.qkv.weight": (6, 2), "b.0.attn.qkv.bias": (6,), "b.0.attn.q_norm.bias": (2,)}.items()}  # fmt: skip
    assert trained_parameters(entries, r"b\.\d+\.", "attention+bias") == ["b.0.attn.qkv.weight", "b.0.attn.qkv.bias"]
    with pytest.raises(UserError, match="no mlp parameters"):
        trained_parameters(entries, r"b\.\d+\.", "mlp")


@pytest.mark.parametrize("name", MODES)
def test_every_mode_starts_where_the_pretrained_model_is_and_learns(family, name, tmp_path):
    mode = mode_named(name)
    scored = family.linearized() if mode.scored_linearized else family
    batch = batch_of(family)
    assert torch.equal(scored.predictor(family.pretrained)(batch), family.predictor(family.pretrained)(batch))
    if name == "posthoc":
        return
    path = tmp_path / ("w_finetuned/adapter_model.safetensors" if mode.lora else "w_finetuned.safetensors")
    lines = []
    finetune(
        family, FirstExamples(task(), 192), recipe(), mode, path, TrainingSettings(log_callbacks=(lines.append,), log_steps=2)
    )
    assert lines[-1].loss < lines[0].loss
    tuned = open_finetuned(path, family.pretrained)
    assert set(tuned) == set(family.pretrained)
    before, after = (scored.predictor(weights)(batch) for weights in (family.pretrained, tuned))
    assert (before != after).any()


def test_logits_before_the_norm_are_linear_in_the_sum_of_vectors(family):
    """Features of the sum are the sum of the features' changes, and so is all that a head makes of them but for their norm."""
    linear, batch = family.linearized(), batch_of(family)
    generator = torch.Generator().manual_seed(0)
    tower = linear._reference
    moves = [{key: 0.02 * torch.randn(leaf.shape, generator=generator) for key, leaf in tower.items()} for _ in range(2)]
    head = family._heads["Arrows"][0]

    def logits(*vectors):
        weights = {key: leaf + sum(vector[key] for vector in vectors) for key, leaf in tower.items()}
        with torch.no_grad():
            return linear._features(weights, batch.inputs) @ head.T

    start, first, second, both = logits(), logits(moves[0]), logits(moves[1]), logits(*moves)
    assert (first - start).abs().max() > 1
    assert (both - start - (first - start) - (second - start)).abs().max() < 1e-4 * (both - start).abs().max()


def test_the_tangent_family_keeps_its_scores_apart_and_does_not_change_the_other(family):
    linear = family.linearized()
    assert linear.identity != family.identity and linear.linearized().identity != family.identity
    weights = {key: leaf + 0.02 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0))
               for key, leaf in family.pretrained.items()}  # fmt: skip
    batch = batch_of(family)
    before = family.predictor(weights)(batch)
    assert (linear.predictor(weights)(batch) != before).any() and torch.equal(family.predictor(weights)(batch), before)
    assert (linear.predictor(weights, "bf16")(batch) == linear.predictor(weights)(batch)).float().mean() > 0.9


@pytest.mark.parametrize("name", [name for name in MODES if name != "posthoc"])
def test_every_mode_goes_on_to_the_same_bits(family, name, tmp_path):
    mode, contents = mode_named(name), []
    for folder, stops in (("whole", ()), ("parts", (1, 3))):
        path = tmp_path / folder / ("w_finetuned/adapter_model.safetensors" if mode.lora else "w_finetuned.safetensors")
        for step in stops:
            settings = TrainingSettings(progress=SignalAt(step), workers=step % 2)
            with pytest.raises(StopRequested):
                finetune(family, FirstExamples(task(), 160), recipe(), mode, path, settings)
        finetune(family, FirstExamples(task(), 160), recipe(), mode, path, TrainingSettings())
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_linear_learns_by_the_tangent_s_loss_and_standard_by_its_own(family):
    """The two start with one gradient, and part with the first step: each has the loss of what it trains."""
    batch, generator = batch_of(family), torch.Generator().manual_seed(0)
    weights = {key: leaf + 0.02 * torch.randn(leaf.shape, generator=generator) for key, leaf in family.pretrained.items()}
    for name, model in (("standard", family), ("linear", family.linearized())):
        trainable = family.trainable(mode_named(name))
        with torch.no_grad():
            for key, leaf in trainable.entries.items():
                leaf.copy_(weights[key])
            loss = trainable(batch).item()
        tower = family._tower(weights)
        expected = family._summed_loss(model._features(tower, batch.inputs), batch).item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_the_order_and_the_crops_of_images_follow_from_seed_epoch_and_number(family):
    ids = [[(0, 5), (0, 6)], [(1, 5), (0, 5)]]

    def inputs(seed, workers):
        return [batch.inputs for batch in family.training_batches(task(), ids, seed, workers)]

    one, again, other = inputs(0, 0), inputs(0, 2), inputs(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(one, again)) and torch.equal(one[0][0], one[1][1])
    assert not torch.equal(one[0][0], one[1][0]) and not torch.equal(one[0], other[0])
    plain = torch.from_numpy(np.array(task().examples("train")[5][0])).permute(2, 0, 1)
    assert not torch.equal(one[0][0], plain)


@pytest.mark.parametrize("trains", ["attention", "mlp", "all-linear"])
def test_an_adapter_in_its_folder_is_the_model_that_was_trained(family, trains, tmp_path):
    """What peft computes with the adapter, and what our dense reading of the folder gives, agree."""
    mode = Mode("lora", "lora", trains, "never", LowRank(4, 8))
    path = tmp_path / "lora_finetuned" / "adapter_model.safetensors"
    finetune(family, FirstExamples(task(), 96), recipe(), mode, path, TrainingSettings())
    trainable, batch = family.trainable(mode), batch_of(family)
    saved = open_files(path)
    for name, leaf in trainable.entries.items():
        leaf.data.copy_(saved[name])
    dense = open_finetuned(path.parent, family.pretrained)
    tower = family._tower(dense)
    loss = family._summed_loss(family._image_features(tower, batch.inputs), batch).item()
    assert trainable(batch).item() == pytest.approx(loss, rel=1e-4)
    assert loss != pytest.approx(family.trainable(mode_named("standard"))(batch).item(), rel=1e-3)
    other = tmp_path / "other" / "lora_finetuned" / "adapter_model.safetensors"
    torch.manual_seed(5)
    finetune(family, FirstExamples(task(), 96), recipe(), mode, other, TrainingSettings())
    assert path.read_bytes() == other.read_bytes()  # where adapters start follows from nothing but the seed
    config = json.loads((path.parent / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["peft_type"] == "LORA"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("finetuning_mode=linear-2", "finetuning_mode.trains=heads"), "trains"),
        (("finetuning_mode=standard", "finetuning_mode.linearized=maybe"), "linearized"),
        (("finetuning_mode=lora", "finetuning_mode.trains=all"), "LoRA trains matrices"),
        (("finetuning_mode=lora", "finetuning_mode.lora.rank=0"), "rank"),
    ],
)
def test_impossible_modes_are_refused_by_name(options, word):
    with pytest.raises(Exception, match=word):
        build_mode(compose_config(options))
