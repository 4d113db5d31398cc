"""(IA)^3 as the released code and peft have it: outputs, gradients, counts, and the names in their files."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call, grad, vmap

from src.checkpoints.opening import open_finetuned
from src.errors import UserError
from src.models.t5.ia3 import add_ia3, is_ia3, spelled_as_ia3
from src.models.t5.loading import load_t5
from src.models.t5.scoring import answer_log_probs, generate, most_probable
from src.state_dict import differences
from tests.helpers.text_models import (
    FILES,
    GOLDEN,
    golden_choices,
    golden_inputs,
    golden_json,
    golden_t5,
    golden_targets,
    random_ids,
    transformers_t5,
)

peft = pytest.importorskip("peft")
TASKS = ("alpha", "beta", "gamma")
PEFT = {"explicit": {"target_modules": ["k", "v", "wi_1"], "feedforward_modules": []}, "default": {}}


def vectors_of(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {key: 1 + 0.3 * torch.randn(leaf.shape, generator=draw) for key, leaf in add_ia3(copy.deepcopy(model)).items()}


def peft_model(model, kind, vectors):
    """Return peft's (IA)^3 on a copy of the model, its parameters set to vectors and, by our names, those parameters."""
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.IA3Config(task_type="SEQ_2_SEQ_LM", **PEFT[kind])).eval()
    by_name = {key.replace("base_model.model.", ""): leaf for key, leaf in adapted.named_parameters() if leaf.requires_grad}
    parameters = {key.replace(".wo.", ".wi_1.").replace(".ia3_l.default", ".ia3"): leaf for key, leaf in by_name.items()}
    with torch.no_grad():
        for key, leaf in parameters.items():
            leaf.copy_(vectors[key].reshape(leaf.shape))
    return adapted, parameters


def passed(model, vectors=None):
    """Return the logits of some examples."""
    ids = {"input_ids": random_ids(3, 9), "decoder_input_ids": random_ids(3, 5, seed=1)}
    return functional_call(model, vectors or {}, kwargs=ids).logits


@pytest.mark.parametrize("kind", list(PEFT))
def test_outputs_gradients_and_counts_are_peft_s(kind):
    base = transformers_t5(False)
    vectors = {key: leaf.requires_grad_() for key, leaf in vectors_of(base).items()}
    adapted, parameters = peft_model(base, kind, {key: leaf.detach() for key, leaf in vectors.items()})
    assert parameters.keys() == vectors.keys()
    assert sum(leaf.numel() for leaf in parameters.values()) == sum(leaf.numel() for leaf in vectors.values())
    ours = copy.deepcopy(base)
    add_ia3(ours)
    found, expected = passed(ours, vectors), passed(adapted)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, passed(base), atol=1e-2)
    for logits in (found, expected):
        logits.square().sum().backward()
    for key, leaf in vectors.items():
        torch.testing.assert_close(leaf.grad, parameters[key].grad.flatten(), atol=1e-3, rtol=1e-4)
        assert leaf.grad.any()


@pytest.mark.parametrize("is_tied", [False, True])
def test_vectors_of_ones_change_no_bit_and_the_base_does_not_train(is_tied):
    base = transformers_t5(is_tied)
    adapted = copy.deepcopy(base)
    ones = add_ia3(adapted)
    assert all(torch.equal(leaf, torch.ones_like(leaf)) for leaf in ones.values())
    assert torch.equal(passed(adapted), passed(base))


def test_t5_large_has_the_papers_number_of_vectors_and_a_t5_without_gates_has_them_on_wi():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 2816, "num_layers": 24, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        module = T5ForConditionalGeneration(T5Config(**sizes))
    vectors = add_ia3(module)
    assert len(vectors) == 192 and sum(leaf.numel() for leaf in vectors.values()) == 282_624
    assert {key.split(".")[-2] for key in vectors} == {"k", "v", "wi_1"}
    assert {key.split(".")[-2] for key in vectors_of(transformers_t5(True))} == {"k", "v", "wi"}


def adapted_golden():
    model = load_t5(FILES)
    return model, add_ia3(model.network.module)


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuned_vectors_answer_as_in_the_released_code(task):
    model, ones = adapted_golden()
    vectors = load_file(GOLDEN / "inputs" / f"ia3_{task}.safetensors")
    assert not differences("vectors", vectors, "ones", ones)
    weights = {**model.weights, **vectors}
    for name, expected in golden_json("eval/eval.json")["models"][f"ia3.{task}"]["tasks"].items():
        with torch.no_grad():
            if "scores" in expected:
                scores = answer_log_probs(model.network, weights, golden_inputs(name), golden_choices(name))
                torch.testing.assert_close(scores, torch.tensor(expected["scores"]), atol=1e-3, rtol=0)
                assert scores.argmax(1).tolist() == expected["predicted"]
            else:
                answers = generate(model.network, weights, golden_inputs(name), most_probable, 12)
                assert answers.tolist() == [row[1 : answers.shape[1] + 1] for row in expected["generated_ids"]]


def test_gradients_of_vectors_by_vmap_are_those_of_each_example_alone():
    model, _ = adapted_golden()
    vectors = load_file(GOLDEN / "inputs" / "ia3_gamma.safetensors")
    inputs, targets = golden_inputs("gamma")[:3], golden_targets("gamma")[:3]

    def objective(vectors, example, target):
        return answer_log_probs(model.network, {**model.weights, **vectors}, example[None], target[None, None])[0, 0]

    together = vmap(grad(objective), in_dims=(None, 0, 0))(vectors, inputs, targets)
    for row in range(3):
        alone = grad(objective)(vectors, inputs[row][inputs[row] != 0], targets[row][targets[row] != 0])
        for key, expected in alone.items():
            torch.testing.assert_close(together[key][row], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", list(PEFT))
def test_a_folder_of_peft_is_read_by_name(kind, tmp_path):
    base = transformers_t5(False)
    vectors = vectors_of(base)
    ones = add_ia3(copy.deepcopy(base))
    peft_model(base, kind, vectors)[0].save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = open_finetuned(path, ones, spell=lambda weights: spelled_as_ia3(weights, ones))
        assert list(found) == list(ones) and not differences("found", found, "vectors", vectors)
        assert all(torch.equal(found[key], vectors[key]) for key in vectors)
    with pytest.raises(UserError, match="of the kind IA3, and only LORA"):
        open_finetuned(tmp_path, dict(base.named_parameters()))


def test_published_names_are_read_as_ours():
    ours = load_file(GOLDEN / "inputs" / "ia3_alpha.safetensors")
    theirs = {f"transformer.{key.removesuffix('.ia3')}.ia3_layer.ia3_vector": leaf for key, leaf in ours.items()}
    assert is_ia3(theirs) and is_ia3(ours) and not is_ia3(golden_t5().weights) and not is_ia3({})
    found = spelled_as_ia3(theirs, ours).entries
    assert list(found) == list(ours) and all(torch.equal(found[key], ours[key]) for key in ours)
    assert spelled_as_ia3(ours, ours).entries is ours
    other = {**theirs, "classifier.weight": torch.ones(2)}
    assert "classifier.weight" in spelled_as_ia3(other, ours).entries


def test_vectors_that_cannot_be_meant_are_refused():
    layer = "base_model.model.encoder.block.0.layer.{}.ia3_l"
    for ones, names, shape, sentence in (
        (vectors_of(transformers_t5(False)), ["0.SelfAttention.k"], (1, 16), "scales the inputs of"),
        (vectors_of(transformers_t5(True)), ["1.DenseReluDense.wo"], (1, 24), "not positive"),
        (vectors_of(transformers_t5(False)), ["1.DenseReluDense.wo", "1.DenseReluDense.wi_1"], (1, 24), "several entries"),
    ):
        weights = {layer.format(name): -torch.ones(shape if name.endswith(("k", "wo")) else (24, 1)) for name in names}
        with pytest.raises(UserError, match=sentence):
            spelled_as_ia3(weights, ones)
