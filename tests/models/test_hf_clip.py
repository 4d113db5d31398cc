"""transformers' CLIP under open_clip's names: the same features, and there and back to the bit."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from src.checkpoints.opening import open_checkpoint
from src.errors import UserError
from src.models.hf_clip import from_hf, is_hf, to_hf
from tests.helpers.foreign_pickles import ImageEncoder, tiny_clip

transformers = pytest.importorskip("transformers")
VISION = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
          "patch_size": 8, "projection_dim": 16}  # fmt: skip
WORDS = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64,
         "max_position_embeddings": 8, "projection_dim": 16}  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def our_clip(seed: int = 0) -> tuple[open_clip.CLIP, dict[str, torch.Tensor]]:
    clip = tiny_clip(seed, quick_gelu=True).eval()
    return clip, {f"model.{key}": leaf for key, leaf in clip.state_dict().items() if not key.startswith("transformer.")}


def randomise(model):
    """Make all weights random, also those that are initialised with zeros and ones; return the model."""
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.normal_(std=0.2)
    return model.eval()


def load(clip, state):
    clip.load_state_dict({key.removeprefix("model."): state[key].contiguous() for key in state}, strict=False)


def test_image_features_are_those_of_transformers():
    theirs = randomise(transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION)))
    clip, like = our_clip()
    state = theirs.state_dict()
    assert is_hf(state) and not is_hf(like)
    load(clip, from_hf(state, like))
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(images), theirs(images).image_embeds, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vision", "vision of version 4", "projection", "whole"])
def test_there_and_back_is_equal_to_the_bit(tmp_path, kind):
    if kind == "whole":
        config = transformers.CLIPConfig(text_config=WORDS, vision_config=VISION, projection_dim=16)
        state = dict(randomise(transformers.CLIPModel(config)).state_dict())
        state["text_model.embeddings.position_ids"] = torch.arange(8)[None]  # as older files have it
    else:
        model = transformers.CLIPVisionModelWithProjection if kind == "projection" else transformers.CLIPVisionModel
        state = dict(randomise(model(transformers.CLIPVisionConfig(**VISION))).state_dict())
    if kind == "vision of version 4":
        state = {f"vision_model.{key.removeprefix('vision_model.')}": leaf for key, leaf in state.items()}
    save_file({key: leaf.contiguous() for key, leaf in state.items()}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    like = our_clip()[1]
    ours = from_hf(opened, like)
    assert list(ours) == list(like) and all(ours.outline[key].shape == like[key].shape for key in like)
    replaced = {key for key in like if not torch.equal(ours[key], like[key])}
    vision = {key for key in like if key.startswith("model.visual.")}
    expected = {"vision": vision - {"model.visual.proj"}, "projection": vision, "whole": set(like)}
    assert replaced == expected[kind.split()[0]]
    back = to_hf(ours, opened)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)
    assert all(back.outline[key].shape == state[key].shape for key in state)


def test_ours_to_theirs_gives_the_same_features():
    clip, state = our_clip(seed=3)
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION)).eval()
    theirs.load_state_dict({key: leaf.contiguous() for key, leaf in to_hf(state, theirs.state_dict()).items()})
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images).image_embeds, clip.encode_image(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 64}, {"patch_size": 4}])
def test_another_architecture_is_refused_both_ways(change):
    state = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**{**VISION, **change})).state_dict()
    with pytest.raises(UserError, match="does not fit the model"):
        from_hf(state, our_clip()[1])
    with pytest.raises(UserError, match="does not fit the one of transformers"):
        to_hf(our_clip()[1], state)


def test_nothing_is_read_before_it_is_asked_for():
    state = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).state_dict()
    reads = []

    class Recorded(dict):
        @property
        def outline(self):
            return {key: torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") for key, leaf in state.items()}

        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    ours = from_hf(Recorded(state), dict(ImageEncoder(tiny_clip()).state_dict()))
    assert not reads
    assert ours["model.visual.transformer.resblocks.1.attn.in_proj_bias"].shape == (96,) and len(reads) == 3
