import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU

import command_line
from src.data.catalogue import find_tasks
from src.errors import UserError
from src.state_dict import digest


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    config = command_line.composed([f"model_location={tmp_path_factory.mktemp('models')}"])
    return command_line.build_family(config, torch.device("cpu"))


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


def test_depth_is_that_of_the_image_towers_blocks(family):
    assert family.depth("model.visual.transformer.resblocks.0.ln_1.weight") == 0
    assert family.depth("model.visual.transformer.resblocks.7.mlp.c_fc.weight") == 1
    assert family.depth("model.visual.conv1.weight") is None and family.depth("model.visual.proj") is None


def test_a_head_is_unit_rows_times_the_logit_scale_and_is_kept(family, task):
    first = family.prepare(task)
    head = family._heads[task.name]
    assert head.shape == (8, 64)
    torch.testing.assert_close(head.norm(dim=1), family.pretrained["model.logit_scale"].exp().expand(8))
    path = family._heads_folder / "head_Arrows.safetensors"
    written = path.stat().st_mtime_ns
    family._heads.clear()
    assert family.prepare(task) == first and path.stat().st_mtime_ns == written


def test_a_head_of_other_prompts_is_made_again(family, task):
    import dataclasses

    other = dataclasses.replace(task, templates=("an arrow {}.",))
    family._heads.clear()
    first = family.prepare(task)
    family._heads.clear()
    assert family.prepare(other) != first
    family._heads.clear()


def test_images_are_preprocessed_as_open_clip_does(family, task):
    _, _, val = open_clip.create_model_and_transforms("ViT-demo")
    batch = next(family.batches(task, "test", 4))
    examples = task.examples("test")
    expected = torch.stack([val(examples[i][0]) for i in range(4)])
    torch.testing.assert_close(family._normalise(batch.inputs.float() / 255), expected)
    assert batch.labels.tolist() == [examples[i][1] for i in range(4)]


def test_loading_changes_predictions_and_leaves_the_pretrained_weights_alone(family, task):
    family.prepare(task)
    before = digest(family.pretrained.items())
    batch = next(family.batches(task, "test", 64))
    family.load(family.pretrained)
    first = family.predict(batch)
    family.load({key: torch.zeros_like(leaf) for key, leaf in family.pretrained.items()})
    assert not torch.equal(family.predict(batch), first)
    family.load(family.pretrained)
    assert torch.equal(family.predict(batch), first) and digest(family.pretrained.items()) == before


def test_weights_of_another_model_are_refused_by_name(family):
    with pytest.raises(UserError, match=r"visual\.proj"):
        family.load({key: leaf for key, leaf in family.pretrained.items() if key != "model.visual.proj"})


def test_only_the_image_tower_is_trained(family):
    names = {id(parameter): name for name, parameter in family._clip.named_parameters()}
    assert all(names[id(parameter)].startswith("visual.") for parameter in family.trainable())
