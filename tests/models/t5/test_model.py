"""T5 as a model family: scored, trained, merged and asked for statistics."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.func import grad, vmap

from src.checkpoints.opening import open_checkpoint, open_finetuned
from src.errors import UserError
from src.evaluation.cache import Cache
from src.evaluation.scorer import Candidate, Job, Scorer
from src.models.family import Batch
from src.models.loader import seed_of
from src.models.modes import LowRank, Mode
from src.models.t5 import T5
from src.runtime.signals import StopRequested
from src.training.loop import TrainingSettings, finetune
from src.training.recipe import Recipe
from tests.helpers.progress import SignalAt
from tests.helpers.text_models import (
    FILES,
    GOLDEN,
    GoldenTask,
    golden_choices,
    golden_inputs,
    golden_json,
    golden_targets,
    transformers_t5,
)

CPU = torch.device("cpu")
TASKS = ("alpha", "beta", "gamma")
MODES = {
    "standard": Mode("standard", "nonlinear", "all", "never", None),
    "attention": Mode("linear-2", "linear-2", "attention", "never", None),
    "mlp": Mode("mlp", "mlp", "mlp", "never", None),
    "lora": Mode("lora", "lora", "all-linear", "never", LowRank(4, 8)),
    "ia3": Mode("ia3", "ia3", "all", "never", None),
}


def golden_family(device=CPU, **options) -> T5:
    return T5("T5", str(FILES.weights), device, GOLDEN, **options)


def prepared_family(device=CPU):
    family = golden_family(device)
    for task in TASKS:
        family.prepare(GoldenTask(task))
    return family


@pytest.fixture(scope="module")
def family():
    return prepared_family()


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """The same model as it trains where its configuration asks for dropout."""
    folder = tmp_path_factory.mktemp("dropping")
    for file in (FILES.tokenizer, FILES.weights):
        shutil.copy(file, folder)
    config = json.loads(FILES.config.read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.1}))
    return T5("T5", str(folder), CPU, folder)


def whole(family, task):
    """Return all of a task's examples in one batch."""
    return next(family.batches(GoldenTask(task), "test", 100, range(family.count(GoldenTask(task), "test"))))


def vectors(task="alpha"):
    return load_file(GOLDEN / "inputs" / f"ia3_{task}.safetensors")


@pytest.mark.parametrize("size", [4, 64])
def test_accuracies_are_the_released_code_s_whatever_the_batch_size(family, size, tmp_path):
    models = {"pretrained": (family, family.pretrained), **{f"ia3.{task}": (family.with_ia3(), vectors(task)) for task in TASKS}}
    for name, (model, weights) in models.items():
        scorer = Scorer(model, Cache(tmp_path), size)
        for task in ("alpha", "beta"):
            candidates = [Candidate(weights, name, name)]
            ((score,),) = scorer.scores([Job(GoldenTask(task), "test", partial(list, candidates))])
            predicted = golden_json("eval/eval.json")["models"][name]["tasks"][task]["predicted"]
            right = [answer == example.label for answer, example in zip(predicted, GoldenTask(task).examples("test"))]
            assert (score.right, score.count) == (sum(right), len(right))


def test_generated_answers_are_scored_by_the_task_s_metric(family):
    task = GoldenTask("gamma")
    predictor, batch = family.predictor(family.pretrained), whole(family, "gamma")
    texts = predictor.texts(batch)
    assert texts[3] == "t12" and predictor.scores(batch).dtype.is_floating_point
    expected = [task.metric(text, example.references) for text, example in zip(texts, task.examples("test"))]
    assert predictor.scores(batch).tolist() == pytest.approx(expected) and len(set(expected)) > 2
    answers = predictor(batch)
    assert answers.shape == (18,) and len(answers.unique()) == len(set(texts))
    assert torch.equal(predictor(batch.take(torch.tensor([5, 3]))), answers[[5, 3]])


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_answers_as_the_cpu_does(family, task):
    there = prepared_family(torch.device("cuda"))
    here, moved = (each.predictor(each.pretrained) for each in (family, there))
    assert moved(whole(there, task)).tolist() == here(whole(family, task)).tolist()
    assert moved.scores(whole(there, task)).tolist() == here.scores(whole(family, task)).tolist()


def test_length_normalised_ranking_is_the_released_code_s_and_scored_apart(family):
    normalised, expected = golden_family(length_normalised=True), golden_json("eval/eval.json")["models"]["pretrained"]["tasks"]
    answers = normalised.predictor(normalised.pretrained)(whole(family, "alpha")).tolist()
    assert answers == expected["alpha"]["predicted_length_normalised"] != expected["alpha"]["predicted"]
    assert normalised.identity != family.identity


def test_what_decides_answers_is_in_the_identity_and_what_does_not_is_not(family, dropping):
    adapted = family.with_ia3()
    assert dropping.identity == family.identity != adapted.identity
    moved = {key: leaf + 1 for key, leaf in family.pretrained.items()}
    other = golden_family(reference=moved)
    assert other.identity == family.identity and other.with_ia3().identity != adapted.identity
    assert torch.equal(other.pretrained["shared.weight"], moved["shared.weight"])


def test_parameters_are_all_weights_or_vectors_of_ones(family):
    adapted = family.with_ia3()
    assert adapted.pretrained.keys() == vectors().keys()
    assert all(torch.equal(leaf, torch.ones_like(leaf)) for leaf in adapted.pretrained.values())
    batch = whole(family, "beta")
    assert torch.equal(*(each.predictor(each.pretrained).choice_scores(batch) for each in (family, adapted)))
    assert family.pretrained_digest != adapted.pretrained_digest
    assert len(family.pretrained) == 52 and not any("ia3" in key for key in family.pretrained)


def test_weights_of_another_model_are_refused(family):
    for model, weights in ((family, vectors()), (family.with_ia3(), family.pretrained)):
        with pytest.raises(UserError, match="do not fit T5"):
            model.predictor(weights)
    with pytest.raises(UserError, match="finetuning_mode=ia3"):
        family.canonical(vectors())


def test_published_checkpoints_are_read_by_name(family, tmp_path):
    for model, entries in (
        (family, {f"transformer.{key}": leaf for key, leaf in family.pretrained.items()}),
        (family.with_ia3(), {f"transformer.{key[:-4]}.ia3_layer.ia3_vector": leaf for key, leaf in vectors().items()}),
    ):
        torch.save(entries, tmp_path / "checkpoint_99.pt")
        found = open_finetuned(tmp_path / "checkpoint_99.pt", model.pretrained, spell=model.canonical)
        assert list(found) == list(model.pretrained)
        model.predictor(found)


def with_first(examples, **change):
    return [replace(examples[0], **change), *examples[1:]]


def test_an_example_s_every_part_is_in_the_data_s_digest(family):
    changes = ({}, {"input": "t5"}, {"target": "t5"}, {"choices": ("t5", "t6")}, {"label": 1}, {"references": ("t5",)})
    digests = [family.data_digest(GoldenTask(f"changed {number}", "alpha", partial(with_first, **change)), "test")
               for number, change in enumerate(changes)]  # fmt: skip
    assert len(set(digests)) == 6 and digests[0] == family.data_digest(GoldenTask("alpha"), "test")


def test_spans_cover_a_split_and_batches_keep_its_order(family):
    task = GoldenTask("long", "gamma", lambda examples: examples * 30)
    spans = family.spans(task, "test")
    assert [index for span in spans for index in span] == list(range(540)) == list(range(family.count(task, "test")))
    assert len(spans) == 3
    labels = torch.cat([batch.labels for span in spans[1:] for batch in family.batches(task, "test", 100, span)])
    assert torch.equal(labels, whole(family, "gamma").labels.repeat(30)[spans[1].start :])


def test_choices_of_any_number_and_length_make_one_batch(family):
    def shortened(examples):
        return [replace(each, choices=each.choices[: 2 + number], label=1) for number, each in enumerate(examples[:2])]

    batch = next(family.batches(GoldenTask("ragged", "alpha", shortened), "test", 9, range(2)))
    assert batch.inputs["choices"].shape[:2] == (2, 3) and not batch.inputs["choices"][0, 2].any()
    scores = family.predictor(family.pretrained).choice_scores(batch)
    expected = torch.tensor(golden_json("eval/eval.json")["models"]["pretrained"]["tasks"]["alpha"]["scores"])[:2, :3]
    expected[0, 2] = -torch.inf
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("change", [{"label": 7}, {"label": None}, {"choices": ()}])
def test_examples_without_a_right_choice_are_refused(change, family):
    task = GoldenTask(f"wrong {change}", "alpha", partial(with_first, **change))
    with pytest.raises(UserError, match="no right one among their choices"):
        next(family.batches(task, "test", 9, range(9)))


def test_tasks_of_images_and_the_tangent_model_are_refused_by_name(family):
    class Images:
        name = "Pictures"

    with pytest.raises(UserError, match="Pictures is no task of text"):
        family.prepare(Images())
    for ask in (family.linearized, lambda: family.trainable(Mode("linear", "linear", "all", "always", None))):
        with pytest.raises(UserError, match="tangent model is for images"):
            ask()
    with pytest.raises(UserError, match="precision is"):
        golden_family(precision="fp8")


def test_depth_and_layers(family, tmp_path):
    depths = {key: family.depth(key) for key in family.pretrained}
    assert depths["encoder.block.1.layer.1.DenseReluDense.wo.weight"] == depths["decoder.block.1.layer.2.layer_norm.weight"] == 1
    assert (
        depths["decoder.block.0.layer.1.EncDecAttention.q.weight"] == 0
        and depths["shared.weight"] is depths["lm_head.weight"] is None
    )
    assert family.with_ia3().depth("encoder.block.1.layer.0.SelfAttention.k.ia3") == 1
    layers = [key for key in family.pretrained if family.is_layer(key)]
    assert layers == [key for key in family.pretrained if key in family.linear_layers()] and len(layers) == 37
    embeddings = [key for key, leaf in family.pretrained.items() if leaf.ndim == 2 and key not in layers]
    assert sorted(embeddings) == [
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "shared.weight",
    ]
    transformers_t5(True).save_pretrained(tmp_path)
    shutil.copy(FILES.tokenizer, tmp_path)
    tied = T5("T5", str(tmp_path), CPU, tmp_path)
    assert "lm_head.weight" not in tied.pretrained and not tied.is_layer("shared.weight")
    assert family.with_ia3().linear_layers() == []


def test_the_loss_is_the_mean_over_tokens_times_the_examples(family):
    for task in TASKS:
        expected = golden_json("eval/eval.json")["models"]["pretrained"]["tasks"][task]["loss_mean_whole_padded_batch"]
        trainable = family.trainable(MODES["standard"])
        assert trainable(whole(family, task)).item() == pytest.approx(expected * len(golden_inputs(task)), rel=1e-5)


def test_layers_drop_units_in_training_alone(dropping):
    batch = whole(dropping, "alpha")
    trainable = dropping.trainable(MODES["standard"])

    def loss(seed):
        torch.manual_seed(seed)
        return trainable(batch).item()

    assert loss(0) == loss(0) != loss(1)
    scores = [dropping.predictor(dropping.pretrained).choice_scores(batch) for _ in range(2)]
    assert torch.equal(*scores) and not dropping.module.training


def tune(family, mode, path, **settings):
    recipe = Recipe(lr=1e-2, weight_decay=0.0, warmup_steps=1, epochs=4, batch_size=4, num_grad_accumulation=2, max_grad_norm=1.0, seed=0)  # fmt: skip
    finetune(family, GoldenTask("alpha"), recipe, mode, path, TrainingSettings(**settings))


def place(name, folder):
    return folder / ("lora_finetuned/adapter_model.safetensors" if name == "lora" else f"{name}.safetensors")


@pytest.mark.parametrize("name", list(MODES))
def test_every_mode_trains_what_it_says_and_learns(name, dropping, tmp_path):
    model, mode, path, losses = dropping.with_ia3() if name == "ia3" else dropping, MODES[name], place(name, tmp_path), []
    tune(model, mode, path, log_callbacks=(losses.append,), log_steps=2)
    assert losses[-1].loss < losses[0].loss
    tuned = open_finetuned(path, model.pretrained, spell=model.canonical)
    changed = {key for key in model.pretrained if not torch.equal(tuned[key], model.pretrained[key])}
    parts = {
        "attention": ("SelfAttention", "EncDecAttention"),
        "mlp": ("DenseReluDense",),
        "lora": ("Attention", "DenseReluDense"),
    }
    expected = set(model.pretrained) if name not in parts else {
        key for key in model.linear_layers() if any(part in key for part in parts[name])}  # fmt: skip
    assert changed == expected and tuned.keys() == model.pretrained.keys()
    trainable = model.trainable(mode)
    assert trainable.total == sum(leaf.numel() for leaf in dropping.pretrained.values())
    counts = {"standard": trainable.total, "ia3": 576}
    assert trainable.count == counts.get(name, trainable.count) <= trainable.total


@pytest.mark.parametrize("name", ["standard", "ia3", "lora"])
def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(name, dropping, tmp_path):
    model, contents = dropping.with_ia3() if name == "ia3" else dropping, []
    for folder, stops in (("whole", ()), ("parts", (2, 5))):
        path = place(name, tmp_path / folder)
        for step in stops:
            with pytest.raises(StopRequested):
                tune(model, MODES[name], path, progress=SignalAt(step), workers=step % 2)
        tune(model, MODES[name], path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_an_adapter_of_lora_is_the_model_that_was_trained(family, tmp_path):
    path = place("lora", tmp_path)
    tune(family, MODES["lora"], path)
    trainable, batch, saved = family.trainable(MODES["lora"]), whole(family, "alpha"), load_file(path)
    for key, leaf in trainable.entries.items():
        leaf.data.copy_(saved[key])
    dense = open_finetuned(path.parent, family.pretrained, spell=family.canonical)
    other = golden_family(reference=dense).trainable(MODES["standard"])
    assert trainable(batch).item() == pytest.approx(other(batch).item(), rel=1e-5)
    assert trainable(batch).item() != pytest.approx(family.trainable(MODES["standard"])(batch).item(), rel=1e-3)


def test_fine_tuned_vectors_are_written_by_our_names(family, tmp_path):
    path = place("ia3", tmp_path)
    tune(family.with_ia3(), MODES["ia3"], path)
    found = open_checkpoint(path)
    assert set(found) == set(vectors()) and {leaf.dtype for leaf in found.values()} == {torch.float32}
    assert {leaf.ndim for leaf in found.values()} == {1}


def test_bfloat16_predictions_are_close_to_float32_ones(family):
    batch = whole(family, "beta")
    exact, rough = (family.predictor(family.pretrained, precision).choice_scores(batch) for precision in ("fp32", "bf16"))
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.3, rtol=0.05)


def test_log_probabilities_and_objectives_for_statistics_are_float64_and_the_released_code_s(family):
    entries = family.on_device(family.pretrained)
    expected = golden_json("eval/eval.json")["models"]["pretrained"]["tasks"]["alpha"]
    batch = whole(family, "alpha")
    scores, objectives = family.log_probs(entries, batch), family.objective(entries, batch)
    assert scores.dtype == objectives.dtype == torch.float64
    torch.testing.assert_close(scores.float(), torch.tensor(expected["scores"]), atol=1e-3, rtol=0)
    torch.testing.assert_close(-objectives.float(), torch.tensor(expected["loss_mean_per_example"]), atol=1e-4, rtol=0)
    predicted = torch.tensor(expected["predicted"])
    chosen = family.with_choice(batch, predicted)
    lengths = (chosen.inputs["target"] != 0).sum(1)
    rows = torch.arange(18)
    torch.testing.assert_close(family.objective(entries, chosen) * lengths, scores[rows, predicted], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("space", ["dense", "ia3"])
def test_objectives_have_gradients_example_by_example_under_vmap(family, space):
    model = family if space == "dense" else family.with_ia3()
    entries, batch = model.on_device(model.pretrained), whole(family, "gamma").take(torch.arange(3))

    def objective(entries, inputs):
        alone = Batch(batch.task, {name: leaf[None] for name, leaf in inputs.items()}, torch.zeros(1))
        return model.objective(entries, alone)[0]

    together = vmap(grad(objective), in_dims=(None, 0))(entries, batch.inputs)
    leaves = {key: leaf.clone().requires_grad_() for key, leaf in entries.items()}
    for row in range(3):
        alone = torch.autograd.grad(model.objective(leaves, batch.take(torch.tensor([row])))[0], list(leaves.values()))
        for key, expected in zip(leaves, alone):
            torch.testing.assert_close(together[key][row], expected, atol=1e-6, rtol=1e-4)
    assert all(leaf.any() for key, leaf in together.items() if key not in ("shared.weight",))


def test_tokens_that_count_in_a_layer_are_the_input_s_or_the_target_s(family):
    batch = whole(family, "alpha")
    of_input = {key for key in family.linear_layers()
                if torch.equal(family.token_mask(key, batch), batch.inputs["input"] != 0)}  # fmt: skip
    cross = {f"decoder.block.{block}.layer.1.EncDecAttention.{name}.weight" for block in (0, 1) for name in "kv"}
    assert of_input == cross | {key for key in family.linear_layers() if key.startswith("encoder.")}
    assert all(torch.equal(family.token_mask(key, batch), batch.inputs["target"] != 0)
               for key in set(family.linear_layers()) - of_input)  # fmt: skip
    assert batch.inputs["target"].shape == golden_targets("alpha").shape


def test_layers_are_seen_by_hooks_with_the_tokens_of_their_masks(family):
    batch, shapes = whole(family, "gamma"), {}
    hooks = [family.module.get_submodule(key.removesuffix(".weight")).register_forward_hook(
        lambda module, inputs, output, key=key: shapes.update({key: inputs[0].shape[:2]})) for key in family.linear_layers()]  # fmt: skip
    family.objective(family.on_device(family.pretrained), batch)
    for hook in hooks:
        hook.remove()
    assert shapes == {key: family.token_mask(key, batch).shape for key in family.linear_layers()}


def generators(count, seed):
    return [torch.Generator().manual_seed(seed_of(seed, number)) for number in range(count)]


def test_sampled_answers_follow_the_seed_and_are_the_model_s_own(family):
    entries = family.on_device(family.pretrained)
    for task in TASKS:
        batch = whole(family, task)
        one, again, other = (family.sampled(entries, batch, generators(len(batch), seed)).inputs["target"] for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)
        if task != "gamma":
            rows = golden_choices(task)
            assert all(any(torch.equal(target, choice) for choice in row) for target, row in zip(one, rows))
    batch = Batch("alpha", {name: leaf[:1].expand(4000, *leaf.shape[1:]) for name, leaf in whole(family, "beta").inputs.items()}, torch.zeros(4000))  # fmt: skip
    probabilities = family.log_probs(entries, batch.take(torch.tensor([0]))).softmax(1)[0]
    drawn = family.sampled(entries, batch, generators(4000, 2)).inputs["target"]
    share = (drawn == batch.inputs["choices"][0, 0]).all(1).double().mean()
    assert 0.1 < probabilities[0] < 0.9
    assert share.item() == pytest.approx(probabilities[0].item(), abs=0.03)
