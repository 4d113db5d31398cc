"""The same model under other names: read as it is, each change said."""

import pytest
import torch

from src.checkpoints.naming import spelled_like, without_wrappers
from src.checkpoints.opening import open_finetuned
from src.state_dict import Lazy, outline

BLOCKS = {f"encoder.layers.{number}.{name}": torch.randn(3, 3) for number in range(3) for name in ("q.weight", "k.weight")}
BASE = {**BLOCKS, "norm.weight": torch.randn(3), "position_ids": torch.arange(4)}
CLIP = {
    **{f"visual.transformer.resblocks.{number}.w": torch.randn(2, 2) for number in range(3)},
    "visual.proj": torch.randn(2, 2), "positional_embedding": torch.randn(4, 2), "text_projection": torch.randn(2, 2),
    "logit_scale": torch.tensor(4.6), "token_embedding.weight": torch.randn(5, 2), "ln_final.weight": torch.randn(2),
}  # fmt: skip
TEXT = {f"transformer.resblocks.{number}.w": torch.randn(2, 2) for number in range(3)}


def trained(model):
    return {key: leaf + 1 for key, leaf in model.items()}


def same(entries, expected):
    assert list(entries) == list(expected) == list(outline(entries))
    assert all(torch.equal(entries[key], expected[key]) for key in expected)


WRAPPED = {
    "DDP": lambda key: f"module.{key}",
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "both": lambda key: f"module._orig_mod.{key}",
    "FSDP": lambda key: "_fsdp_wrapped_module." + key.replace("encoder.", "encoder._fsdp_wrapped_module."),
    "activation checkpointing": lambda key: key.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "Lightning": lambda key: f"model.{key}",
    "Lightning and torch.compile": lambda key: f"model._orig_mod.{key}",
    "a head around it": lambda key: f"bert.{key}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("side", ["finetuned", "pretrained"])
def test_the_names_that_wrappers_give_are_read(wrapper, side):
    rename, tuned = WRAPPED[wrapper], trained(BASE)
    if side == "finetuned":
        model, weights = BASE, {rename(key): leaf for key, leaf in tuned.items()}
    else:
        model, weights = {rename(key): leaf for key, leaf in BASE.items()}, tuned
        tuned = {rename(key): leaf for key, leaf in tuned.items()}
    spelling = spelled_like(weights, model)
    same(spelling.entries, tuned)
    assert spelling.notes and not spelling.is_filled
    assert any(part in spelling.notes[-1] for part in ("module", "_orig_mod", "wrapped", "model.", "bert."))


def test_one_prefix_in_the_place_of_another():
    model, weights = ({f"{prefix}.{key}": leaf for key, leaf in BASE.items()} for prefix in ("roberta", "bert.model"))
    spelling = spelled_like(weights, model)
    same(spelling.entries, model)
    assert spelling.notes == ["read with roberta. in the place of bert.model. in its names, as the pre-trained model's are"]


def test_names_that_fit_are_left_as_they_are():
    assert spelled_like(BASE, BASE).entries is BASE
    own = {"module.w": torch.ones(1), "w": torch.ones(1)}  # where module is a part of the model
    assert spelled_like(own, own).entries is own and without_wrappers(own) is own


def test_buffers_that_one_side_lacks_are_no_difference():
    tuned = trained(BASE)
    del tuned["position_ids"]
    spelling = spelled_like(tuned, BASE)
    same(spelling.entries, {**tuned, "position_ids": BASE["position_ids"]})
    assert spelling.is_filled and "has no position_ids, taken from the pre-trained model" in spelling.notes
    spelling = spelled_like({**trained(BASE), "attn.mask": torch.ones(2, dtype=torch.bool)}, BASE)
    same(spelling.entries, trained(BASE))
    assert not spelling.is_filled and "attn.mask" in spelling.notes[0]


def test_weights_that_one_side_lacks_stay_a_difference():
    tuned = trained(BASE)
    del tuned["norm.weight"]
    assert set(spelled_like(tuned, BASE).entries) == set(tuned)
    more = {f"model.{key}": leaf for key, leaf in trained(BASE).items()} | {"criterion.weight": torch.ones(2)}
    assert set(spelled_like(more, BASE).entries) == {*BASE, "criterion.weight"}


def test_another_model_is_not_renamed():
    other = {"conv.weight": torch.ones(3, 3), "conv.bias": torch.ones(3)}
    assert spelled_like(other, BASE).entries is other


SPELLINGS = {
    "the whole CLIP": {**CLIP, **TEXT},
    "the image tower alone": {key: leaf for key, leaf in CLIP.items() if key.startswith("visual.")},
    "as published": {f"model.{key}": leaf for key, leaf in CLIP.items()},
    "as published, with its text tower": {f"model.{key}": leaf for key, leaf in {**CLIP, **TEXT}.items()},
    "a whole classifier": {f"image_encoder.model.{key}": leaf for key, leaf in CLIP.items()} | {"classification_head.weight": torch.ones(2)},
    "of OpenAI": {**CLIP, **TEXT, "input_resolution": torch.tensor(224), "context_length": torch.tensor(77)},
    "under DDP": {f"module.{key}": leaf for key, leaf in {**CLIP, **TEXT}.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("base", ["as published", "the whole CLIP"])
def test_a_clip_is_read_with_and_without_its_text_tower(base, name):
    model = SPELLINGS[base]
    spelling = spelled_like(trained(SPELLINGS[name]), model)
    assert list(spelling.entries) == list(model)
    for key in model:
        expected = (
            model[key] if key.removeprefix("model.") not in {k.split("model.")[-1] for k in SPELLINGS[name]} else model[key] + 1
        )
        if "module." not in next(iter(SPELLINGS[name])):
            assert torch.equal(spelling.entries[key], expected), key


def test_no_entry_is_read_before_it_is_asked_for():
    def fail(key):
        raise AssertionError(key)

    shapes = {f"module.{key}": leaf for key, leaf in BASE.items()}
    assert set(spelled_like(Lazy(shapes, fail), BASE).entries) == set(BASE)


def test_what_was_done_about_names_is_said_of_the_file(tmp_path):
    torch.save({"state_dict": {f"module.{key}": leaf for key, leaf in trained(BASE).items()}}, tmp_path / "a.pt")
    checkpoint = open_finetuned(tmp_path / "a.pt", BASE, "digest of the base")
    same(checkpoint, trained(BASE))
    assert checkpoint.notes == [f"{tmp_path / 'a.pt'}: read without regard to module in names, which wrappers add"]
    assert not checkpoint.base_digest


def test_tied_embeddings_that_one_side_has_not_are_those_that_it_has():
    shared = torch.randn(5, 3)
    base = {"embed.weight": shared, "other.weight": torch.randn(5, 3), "lm_head.weight": shared, "norm.weight": torch.ones(3)}
    tuned = {key: leaf + 1 for key, leaf in base.items() if key != "lm_head.weight"}
    spelling = spelled_like(tuned, base)
    same(spelling.entries, {**{key: base[key] + 1 for key in base}})
    assert not spelling.is_filled and "has no lm_head.weight, taken from its embed.weight" in spelling.notes[0]
    spelling = spelled_like({key: leaf + 1 for key, leaf in base.items()}, {key: base[key] for key in tuned})
    same(spelling.entries, tuned)
    untied = {**base, "lm_head.weight": torch.randn(5, 3)}
    assert "lm_head.weight" not in spelled_like(tuned, untied).entries


def test_two_entries_never_come_to_have_one_name():
    base = {"encoder.w": torch.zeros(1), "head.w": torch.zeros(1)}
    tuned = {"model.encoder.w": torch.ones(1), "model.head.w": torch.ones(1), "encoder.w": torch.full((1,), 9.0)}
    assert spelled_like(tuned, base).entries is tuned or set(spelled_like(tuned, base).entries) == set(tuned)
    assert (
        "dec.w"
        in spelled_like(
            {"dec.w": torch.ones(2), "aux.w": torch.ones(2)}, {"enc.w": torch.ones(2), "dec.w": torch.ones(2)}
        ).entries
    )
    part = {**CLIP, **TEXT}
    del part["transformer.resblocks.1.w"]
    assert "transformer.resblocks.1.w" not in spelled_like(part, {**CLIP, **TEXT}).entries  # damage, and no lack of a tower


def test_names_of_thousands_of_components_take_no_time():
    names = (".".join(letter * 3000) for letter in "ab")
    one, other = ({name: torch.ones(1)} for name in names)
    assert spelled_like(one, other).entries is one
