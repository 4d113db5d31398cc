import dataclasses
import math

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from command_line.build import build_device, build_family
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.opening import open_checkpoint
from src.data.registry import find_tasks
from src.errors import UserError
from src.models.clip.loading import _not_loaded, find_pretrained_config, has_hub_tokenizer, resolve_quick_gelu
from src.models.family import Batch
from src.state_dict import digest
from tests.training.test_loop import STANDARD


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    config = compose_config([f"model_location={tmp_path_factory.mktemp('models')}"])
    return build_family(config, paths_of(config), torch.device("cpu"))


@pytest.fixture(scope="module")
def task():
    return find_tasks(["Arrows"])[0]


def test_the_activation_is_quick_gelu_as_openai_trained_it(family):
    kinds = {type(module) for module in family._clip.visual.modules() if "GELU" in type(module).__name__}
    assert kinds == {QuickGELU}


def test_names_are_those_of_published_checkpoints(family):
    published = {"model.positional_embedding", "model.text_projection", "model.logit_scale", "model.token_embedding.weight",
                 "model.ln_final.weight", "model.visual.conv1.weight", "model.visual.proj", "model.visual.class_embedding",
                 "model.visual.transformer.resblocks.0.attn.in_proj_weight"}  # fmt: skip
    assert published <= family.pretrained.keys()
    assert not any(key.startswith("model.transformer.") for key in family.pretrained)


def test_a_tokenizer_that_cannot_be_downloaded_is_said_before_weights_are_loaded(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("We couldn't connect to the Hub\n\nand a page of advice")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", None)
    options = ["model=open_clip", "model.name=ViT-B-16-SigLIP", "model.pretrained=webli", f"model_location={tmp_path}"]
    config = compose_config(options)
    with pytest.raises(
        UserError, match=r"the tokenizer of ViT-B-16-SigLIP has to come from the Hub .*couldn't connect to the Hub\)"
    ):
        build_family(config, paths_of(config), torch.device("cpu"))
    config = compose_config([*options, "heads.source=published"])
    with pytest.raises(UserError, match="weights webli"):
        build_family(config, paths_of(config), torch.device("cpu"))  # which needs none
    assert not has_hub_tokenizer("ViT-B-32")


def test_depth_is_that_of_the_image_towers_blocks(family):
    assert family.depth("model.visual.transformer.resblocks.0.ln_1.weight") == 0
    assert family.depth("model.visual.transformer.resblocks.7.mlp.c_fc.weight") == 1
    assert family.depth("model.visual.conv1.weight") is None and family.depth("model.visual.proj") is None


def test_a_head_is_unit_rows_times_the_logit_scale_and_is_kept(family, task):
    first = family.prepare(task)
    head, _ = family._heads[task.name]
    assert head.shape == (8, 64)
    torch.testing.assert_close(head.norm(dim=1), family.pretrained["model.logit_scale"].exp().expand(8))
    path = family._head_source.folder / "Arrows.safetensors"
    modified = path.stat().st_mtime_ns
    family._heads.clear()
    assert family.prepare(task) == first and path.stat().st_mtime_ns == modified


def test_a_head_of_other_prompts_is_built_again(family, task):
    other = dataclasses.replace(task, templates=("an arrow {}.",))
    family._heads.clear()
    first = family.prepare(task)
    family._heads.clear()
    assert family.prepare(other) != first
    family._heads.clear()


def test_images_are_preprocessed_as_open_clip_does(family, task):
    _, _, val = open_clip.create_model_and_transforms("ViT-demo")
    batch = next(family.batches(task, "test", 4, family.spans(task, "test")[0]))
    examples = task.examples("test")
    expected = torch.stack([val(examples[i][0]) for i in range(4)])
    torch.testing.assert_close(family._normalise(batch.inputs.float() / 255), expected)
    assert batch.labels.tolist() == [examples[i][1] for i in range(4)]


def test_predictors_of_several_weights_live_side_by_side_and_leave_the_pretrained_alone(family, task):
    family.prepare(task)
    before = digest(family.pretrained.items())
    batch = next(family.batches(task, "test", 64, family.spans(task, "test")[0]))
    zeros = {key: torch.zeros_like(leaf) for key, leaf in family.pretrained.items()}
    predict, predict_with_zeros = family.predictor(family.pretrained), family.predictor(zeros)
    assert not torch.equal(predict(batch), predict_with_zeros(batch))
    assert torch.equal(predict(batch), family.predictor(family.pretrained)(batch))
    assert digest(family.pretrained.items()) == before
    logits = family._clip.encode_image(family._normalised(batch.inputs), normalize=True) @ family._heads[task.name][0].T
    assert torch.equal(predict(batch), logits.argmax(1))
    loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum").item()
    assert family.trainable(STANDARD)(batch).item() == pytest.approx(loss, rel=1e-5)


def test_what_is_fine_tuned_from_a_reference_keeps_all_but_its_image_tower(family, tmp_path):
    """A reference brings no text tower, and the one built beside it is random: it must not get into the weights."""
    reference = {key: leaf + 0.01 if leaf.ndim else leaf for key, leaf in family.pretrained.items()}
    save_file(reference, tmp_path / "start.safetensors")
    config = compose_config([f"model_location={tmp_path}", f"cache_dir={tmp_path}", f"pretrained={tmp_path}/start.safetensors"])
    other = build_family(config, paths_of(config), torch.device("cpu"))
    other.trainable(STANDARD).save(tmp_path / "tuned.safetensors", {})
    tuned = open_checkpoint(tmp_path / "tuned.safetensors")
    assert set(tuned) == set(family.pretrained)
    assert all(torch.equal(tuned[key], leaf) for key, leaf in reference.items())


def test_a_narrower_precision_predicts_nearly_the_same(family, task):
    family.prepare(task)
    batch = next(family.batches(task, "test", 256, family.spans(task, "test")[0]))
    wide, narrow = (family.predictor(family.pretrained, precision)(batch) for precision in ("fp32", "bf16"))
    assert (wide == narrow).float().mean() > 0.95 and wide.dtype == narrow.dtype


def test_compiled_predictions_are_the_same(family, task, monkeypatch):
    family.prepare(task)
    batch = next(family.batches(task, "test", 32, family.spans(task, "test")[0]))
    compiled = torch.compile(family._image_features, backend="eager")  # no compiler of C++ is asked for
    eager = family.predictor(family.pretrained)(batch)
    monkeypatch.setattr(family, "_features", compiled)
    assert torch.equal(family.predictor(family.pretrained)(batch), eager)


def test_weights_of_another_model_are_refused_by_name(family):
    with pytest.raises(UserError, match=r"visual\.proj"):
        family.predictor({key: leaf for key, leaf in family.pretrained.items() if key != "model.visual.proj"})


def test_only_the_image_tower_is_trained(family):
    assert {name.removeprefix("model.") for name in family.trainable(STANDARD).names} == {
        name for name, _ in family._clip.named_parameters() if name.startswith("visual.")
    }


OPENAI = ("ViT-B-32", "ViT-B-16", "ViT-L-14")


def uses_quick_gelu(architecture, pretrained, quick_gelu=None, like=None):
    config = find_pretrained_config(architecture, pretrained, like)
    return resolve_quick_gelu(f"{architecture}/{pretrained}", architecture, config, quick_gelu, pretrained is not None)


@pytest.mark.parametrize("name", OPENAI)
def test_models_of_openai_run_with_quick_gelu_and_nothing_else(name):
    config = compose_config([f"model={name}"])
    family = config.model.family
    assert (family.architecture, family.pretrained, family.quick_gelu) == (name, "openai", True)
    assert config.tasks.names[:2] == ["Cars", "DTD"]
    assert uses_quick_gelu(name, "openai", None) is True and uses_quick_gelu(name, "openai", True) is True
    with pytest.raises(UserError, match=r"trained with QuickGELU; set model\.family\.quick_gelu=true"):
        uses_quick_gelu(name, "openai", False)


def test_the_activation_follows_the_tag():
    assert uses_quick_gelu("ViT-B-32", "laion2b_s34b_b79k", None) is False
    with pytest.raises(UserError, match="trained with GELU"):
        uses_quick_gelu("ViT-B-32", "laion2b_s34b_b79k", True)
    assert uses_quick_gelu("ViT-B-32", None, True) is True
    assert uses_quick_gelu("ViT-B-32-quickgelu", "laion400m_e32", None) is True


def test_a_weight_file_must_say_what_it_is_like():
    with pytest.raises(UserError, match=r"nothing tells.*model\.family\.like=TAG"):
        uses_quick_gelu("ViT-B-32", "openai.pt")
    assert (
        uses_quick_gelu("ViT-B-32", "openai.pt", like="openai") is True and uses_quick_gelu("ViT-B-32", "mine.pt", False) is False
    )
    with pytest.raises(UserError, match="trained with QuickGELU"):
        uses_quick_gelu("ViT-B-32", "openai.pt", False, "openai")
    with pytest.raises(UserError, match="like=opena is no tag of ViT-B-32"):
        uses_quick_gelu("ViT-B-32", "openai.pt", None, "opena")
    assert find_pretrained_config("ViT-B-16-SigLIP", "siglip.pt", "webli")["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32"])
def test_towers_that_are_no_plain_vision_transformer_predict(name, tmp_path):
    overrides = [
        "model=open_clip",
        f"model.name={name}",
        "model.pretrained=null",
        f"model_location={tmp_path}",
        f"cache_dir={tmp_path}",
    ]
    family = build_family(config := compose_config(overrides), paths_of(config), torch.device("cpu"))
    assert not any(
        "text_decoder" in key or (".transformer.resblocks" in key and ".visual." not in key) for key in family.pretrained
    )
    family._heads["Arrows"] = torch.randn(3, family._embed_dim), "head"
    batch = Batch("Arrows", torch.zeros(2, 3, 224, 224, dtype=torch.uint8), torch.zeros(2))
    assert family.predictor(family.pretrained)(batch).shape == (2,)
    if name == "RN50":
        with pytest.raises(UserError, match="no sequence of blocks"):
            family.depth("model.visual.layer1.0.conv1.weight")


def test_vit_b_32_is_built_with_the_names_shapes_and_activation_of_the_published_checkpoints(tmp_path):
    """With random weights, which is all that a machine without a network has."""
    overrides = ["model=ViT-B-32", "model.pretrained=null", f"model_location={tmp_path}", f"cache_dir={tmp_path}"]
    family = build_family(config := compose_config(overrides), paths_of(config), torch.device("cpu"))
    kinds = [type(module) for module in family._clip.modules() if "GELU" in type(module).__name__]
    assert len(kinds) == 24 and set(kinds) == {QuickGELU}
    shapes = {key: tuple(leaf.shape) for key, leaf in family.pretrained.items()}
    assert shapes["model.token_embedding.weight"] == (49408, 512) and shapes["model.visual.proj"] == (768, 512)
    assert shapes["model.visual.transformer.resblocks.11.attn.in_proj_weight"] == (2304, 768)
    assert sum(math.prod(shape) for shape in shapes.values()) == 113_448_705
    assert family.depth("model.visual.transformer.resblocks.11.ln_1.weight") == 1


def test_weights_that_cannot_be_loaded_are_named_with_the_way_by_hand(tmp_path):
    (tmp_path / "spoiled.pt").write_bytes(b"spoiled")
    for pretrained, advice in (
        (tmp_path / "none.pt", r"no file, and no tag of open_clip; its tags are openai"),
        (tmp_path / "spoiled.pt", r"check that the file is whole"),
    ):
        overrides = ["model=ViT-B-32", f"model.pretrained={pretrained}", f"model_location={tmp_path}"]
        with pytest.raises(UserError, match=rf"{pretrained.name} of ViT-B-32 cannot be loaded.*{advice}"):
            build_family(config := compose_config(overrides), paths_of(config), torch.device("cpu"))


@pytest.mark.parametrize(
    ("pretrained", "advice"),
    [("openai", "type model.pretrained=FILE model.family.like=openai"), ("opnai", "did you mean openai?")],
)
@pytest.mark.parametrize("message", ["no network\nat all", ""])
def test_a_tag_that_cannot_be_loaded_is_named_with_the_way_by_hand(pretrained, advice, message):
    sentence = _not_loaded("ViT-B-32", pretrained, OSError(message))
    assert sentence.startswith(
        f"the pre-trained weights {pretrained} of ViT-B-32 cannot be loaded ({message[:10] or 'OSError'}); "
    )
    assert advice in sentence


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_predicts_what_the_cpu_does(family, task, precision, tmp_path):
    config = compose_config([f"model_location={tmp_path}", f"cache_dir={tmp_path}", "device=cuda", f"precision={precision}"])
    on_gpu = build_family(config, paths_of(config), build_device(config))
    for each in (family, on_gpu):
        each.prepare(task)
    (span,) = family.spans(task, "test")
    expected, predictions = ([each.predictor(each.pretrained)(batch).cpu() for batch in each.batches(task, "test", 128, span)]
                             for each in (family, on_gpu))  # fmt: skip
    agreement = (torch.cat(expected) == torch.cat(predictions)).float().mean()
    assert agreement >= (0.999 if precision == "fp32" else 0.97)
