"""T5s from files: the output layer stays what it is, every weight has one name, and misfits are said."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from src.downloads.hub import fetch
from src.errors import UserError
from src.models.t5.files import find_model
from src.models.t5.loading import linear_names, load_t5
from src.models.t5.network import Encoded
from tests.helpers.hub_server import Hub, serving
from tests.helpers.text_models import FILES, golden_t5, random_ids, transformers_t5


def write(model, folder, pickled=False, **changes):
    """Write a folder as transformers' `save_pretrained` does, or as old ones are; `changes` are made to its config."""
    model.save_pretrained(folder)
    shutil.copy(FILES.tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def load(folder):
    return load_t5(find_model(str(folder), folder))


def both_logits(model, loaded):
    inputs, targets = random_ids(2, 7), random_ids(2, 4, seed=1)
    before = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
    with torch.no_grad():
        encoded = loaded.network.encode(loaded.weights, inputs)
        return loaded.network.logits(loaded.weights, encoded, targets[:, None])[:, 0], model(
            input_ids=inputs, decoder_input_ids=before
        ).logits


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_folder_of_transformers_answers_as_it_does_there(is_tied, pickled, tmp_path):
    model = transformers_t5(is_tied)
    loaded = load(write(model, tmp_path, pickled))
    ours, theirs = both_logits(model, loaded)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert set(loaded.weights) == {name for name, _ in model.named_parameters()}  # which names tied ones once
    assert ("lm_head.weight" in loaded.weights) != is_tied
    assert not any("embed_tokens" in key for key in loaded.weights)


def test_an_output_layer_of_its_own_stays_its_own():
    """Were it tied to the embedding, one of the two would be refused, or overwritten."""
    loaded = golden_t5()
    module = loaded.network.module
    assert module.lm_head.weight is not module.shared.weight
    assert module.encoder.embed_tokens.weight is module.decoder.embed_tokens.weight is module.shared.weight
    assert not module.config.tie_word_embeddings and not module.config.scale_decoder_outputs
    module.tie_weights()
    assert module.lm_head.weight is not module.shared.weight
    weights = dict(loaded.weights)
    states = Encoded(torch.ones(1, 2, 32), torch.zeros(1, 1, 1, 2))
    doubled = {**weights, "lm_head.weight": 2 * weights["lm_head.weight"]}
    before, after = (loaded.network.logits(each, states, torch.tensor([[[5, 1]]])) for each in (weights, doubled))
    assert torch.equal(2 * before, after) and before.any()


def test_an_output_layer_stays_its_own_when_transformers_saves_the_model_again(tmp_path):
    model = transformers_t5(False)
    model.config.tie_word_embeddings = True  # as transformers says of a T5 v1.1 that it loaded
    folder = write(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True and config["scale_decoder_outputs"] is False
    save_file({key: leaf for key, leaf in model.state_dict().items() if "embed_tokens" not in key}, folder / "model.safetensors")
    loaded = load(folder)
    torch.testing.assert_close(*both_logits(model, loaded), atol=1e-5, rtol=1e-5)
    assert torch.equal(loaded.weights["lm_head.weight"], model.lm_head.weight)


def test_an_output_layer_equal_to_the_embedding_is_its_own_where_the_configuration_says_so(tmp_path):
    model = transformers_t5(False)
    model.lm_head.weight.data.copy_(model.shared.weight)
    for says_tied, is_there in ((False, True), (True, False), (None, False)):
        folder = write(model, tmp_path / str(says_tied), tie_word_embeddings=says_tied, scale_decoder_outputs=None)
        save_file({key: leaf.clone() for key, leaf in model.state_dict().items()}, folder / "model.safetensors")
        assert ("lm_head.weight" in load(folder).weights) == is_there


def test_a_tied_output_layer_is_no_linear_layer(tmp_path):
    layers = {is_tied: linear_names(loaded.network.module, loaded.weights)
              for is_tied in (False, True) for loaded in [load(write(transformers_t5(is_tied), tmp_path / str(is_tied)))]}  # fmt: skip
    assert "lm_head.weight" in layers[False] and "lm_head.weight" not in layers[True]
    assert len(layers[False]) == 2 * 7 + 3 * 11 + 1 and len(layers[True]) == 2 * 6 + 3 * 10
    assert not any("relative" in key or "shared" in key for key in layers[False])


def test_t5_large_has_the_papers_number_of_parameters():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 2816, "num_layers": 24, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        module = T5ForConditionalGeneration(T5Config(**sizes))
    module.lm_head.weight = nn.Parameter(torch.empty_like(module.shared.weight))
    weights = dict(module.named_parameters())
    assert sum(leaf.numel() for leaf in weights.values()) == 783_150_080 and len(weights) == 558
    assert len(linear_names(module, weights)) == 433


def test_names_of_other_programs_are_read_as_transformers_own(tmp_path):
    model = transformers_t5(False)
    folder = write(model, tmp_path)
    plain = {f"transformer.{key}": leaf.clone() for key, leaf in model.state_dict().items()}
    plain["transformer.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 3)
    save_file(plain, folder / "model.safetensors")
    torch.testing.assert_close(*both_logits(model, load(folder)), atol=1e-5, rtol=1e-5)
    del plain["transformer.shared.weight"]
    save_file(plain, folder / "model.safetensors")
    assert torch.equal(load(folder).weights["shared.weight"], model.shared.weight)


def test_weights_in_place_of_the_files_are_those_used():
    other = {key: leaf + 1 for key, leaf in golden_t5().weights.items()}
    found = load_t5(FILES, other).weights
    assert list(found) == list(golden_t5().weights) and all(torch.equal(found[key], other[key]) for key in other)


@pytest.mark.parametrize(
    ("settings", "edit", "sentence"),
    [
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, None, "has a lm_head.weight of its own.*false there"),
        ({"tie_word_embeddings": False}, lambda entries: entries.pop("lm_head.weight"), "has no lm_head.weight, and"),
        ({"d_model": 20}, None, "has shape"),
        ({}, lambda entries: entries.pop("decoder.block.1.layer.2.DenseReluDense.wi_1.weight"), r"lacks decoder\.block\.1"),
        (
            {},
            lambda entries: entries.update({"encoder.embed_tokens.weight": torch.ones(128, 16)}),
            "embed_tokens.* another matrix",
        ),
        ({"model_type": "bert"}, None, "of the kind bert"),
        ({"d_model": "wide"}, None, "describes no T5"),
        ({"feed_forward_proj": "gated-nothing"}, None, "describes no T5"),
        ({"num_layers": 10**9}, None, "asks for 1000000000"),
        ({"pad_token_id": 5}, None, "pads and starts with 0"),
        ({"eos_token_id": [1, 2]}, None, "ends with one other token"),
        ({"relative_attention_max_distance": -1}, None, "describes no T5"),
        ({"num_heads": -1}, None, "describes no T5"),
        ({"vocab_size": 100}, None, "128 tokens, and the model 100|has shape"),
    ],
)
def test_what_does_not_fit_together_is_said(settings, edit, sentence, tmp_path):
    folder = write(transformers_t5(False), tmp_path, **settings)
    entries = load_file(folder / "model.safetensors")
    if edit:
        edit(entries)
    save_file(entries, folder / "model.safetensors")
    with pytest.raises(UserError, match=sentence):
        load(folder)


NO_UNKNOWN = json.dumps({"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "</s>": 1}, "unk_token": "<unk>"}})


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json", '{"version": "1.0"}', NO_UNKNOWN])
def test_files_that_are_no_tokenizer_are_said(content, tmp_path):
    folder = write(transformers_t5(False), tmp_path)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"is no tokenizer|cannot be read as json"):
        load(folder)


def test_missing_files_are_all_said_with_what_helps(tmp_path):
    with pytest.raises(UserError, match="no file or folder here, and no repository"):
        find_model("/nowhere/at/all", tmp_path)
    with pytest.raises(UserError) as error:
        find_model(str(tmp_path), tmp_path)
    assert len(error.value.problems) == 2 and "model.family.tokenizer=FILE" in error.value.problems[1]


def test_beside_a_weight_file_lie_files_of_its_name_or_of_a_folder_s(tmp_path):
    files = find_model(str(FILES.weights), tmp_path)
    assert files == FILES
    for source, name in ((FILES.config, "x.json"), (FILES.tokenizer, "x-tokenizer.json"), (FILES.weights, "x.safetensors")):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    files = find_model(str(tmp_path / "x.safetensors"), tmp_path)
    assert (files.config.name, files.tokenizer.name) == ("x.json", "x-tokenizer.json")
    assert find_model(str(tmp_path / "x.safetensors"), tmp_path, tokenizer=str(FILES.tokenizer)).tokenizer == FILES.tokenizer


@pytest.mark.parametrize(("name", "other"), [("model.safetensors", "pytorch_model.bin"), ("pytorch_model.bin", "tf_model.h5")])
def test_a_repository_is_fetched_as_safetensors_where_there_are_any(name, other, tmp_path, monkeypatch):
    with serving(Hub()) as hub:
        monkeypatch.setattr("src.models.t5.files.fetch", partial(fetch, endpoint=hub.address))
        files = {"config.json": b"{}", "tokenizer.json": b"{}", name: b"first"}
        first = hub.add("google/t5", files)
        hub.add("google/t5", {**files, name: b"second", other: b"other"})
        folder = tmp_path / "newest"
        assert find_model("google/t5", folder).weights == folder
        assert (folder / name).read_bytes() == b"second" and not (folder / other).exists()
        assert find_model("google/t5", tmp_path / "pinned", revision=first).weights.joinpath(name).read_bytes() == b"first"
        find_model("google/t5", tmp_path / "without", has_weights=False)
        assert not (tmp_path / "without" / name).exists()


def test_texts_end_in_their_end_and_are_cut_before_it():
    tokens = golden_t5().tokens
    assert tokens.ids("t5 t9 nowhere") == [5, 9, 2, 1] and tokens.ids("") == [1]
    assert tokens.ids("t5 \ud800 t9") == [5, 2, 9, 1]
    long = tokens.ids("t5 " * 600)
    assert len(long) == 512 and long[-2:] == [5, 1]
    assert tokens.text([5, 9, 1, 7, 0]) == "t5 t9" and tokens.text([0, 5]) == "t5"
