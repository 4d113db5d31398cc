"""Statistics against gradients and activations taken one example at a time, of both families."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.models.family import Batch
from src.statistics import gram
from src.statistics.collection import COLLECTORS, StatisticsSettings, collect
from src.statistics.labels import LABELS
from tests.helpers.likely_families import CPU, IMAGES, ia3_family, image_family, image_task, text_family
from tests.helpers.text_models import GoldenTask

SETTINGS = StatisticsSettings(split="val", examples=6, labels="empirical", seed=0)
FAMILIES = {"text": (text_family, GoldenTask("alpha")), "images": (image_family, None), "ia3": (ia3_family, GoldenTask("gamma"))}
COLLECTED = [(name, kind) for name in FAMILIES for kind in COLLECTORS if ("gram" in kind) <= (name != "ia3")]
ALL_LABELS = [(name, labels) for name in FAMILIES for labels in LABELS if (name, labels) != ("ia3", "expected")]


def family_and_task(name, device=CPU):
    family, task = FAMILIES[name]
    return family(device), task or image_task()


def statistics(name, kind, size=64, device=CPU, **options):
    """Return the statistic of a family's pre-trained model by parameter."""
    family, task = family_and_task(name, device)
    found = collect(family, family.on_device(family.pretrained), task, kind, replace(SETTINGS, **options), size)
    return next(each for each in found if each.kind == kind)


def whole_batch(name, count=6):
    family, task = family_and_task(name)
    return family, next(family.batches(task, "val", count, family.spans(task, "val")[0]))


def gradients(name, batch):
    """Return each example's gradients, one at a time."""
    family, _ = family_and_task(name)
    leaves = {key: leaf.clone().requires_grad_() for key, leaf in family.on_device(family.pretrained).items()}
    each = (family.objective(leaves, batch.take(torch.tensor([row])))[0] for row in range(len(batch)))
    return [dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())))) for value in each]


def assert_close(found, expected, tolerance=1e-5):
    assert (found - expected).norm() <= tolerance * expected.norm() + 1e-12


@pytest.mark.parametrize(("name", "kind"), COLLECTED)
@pytest.mark.parametrize("labels", ["empirical", "true"])
def test_batches_give_what_single_examples_give(name, kind, labels):
    alone, together = (statistics(name, kind, size, labels=labels) for size in (1, 4))
    assert alone.counts == pytest.approx(together.counts) and alone.aliases == together.aliases
    for key, leaf in alone.means.items():
        assert_close(together.means[key], leaf)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "kind"), COLLECTED)
def test_a_gpu_collects_what_the_cpu_does(name, kind):
    here, there = (statistics(name, kind, device=torch.device(device)) for device in ("cpu", "cuda"))
    assert here.counts == pytest.approx(there.counts) and here.aliases == there.aliases
    for key, leaf in here.means.items():
        assert_close(there.means[key].cpu(), leaf, 1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_fisher_information_is_the_mean_square_of_gradients(name):
    _, batch = whole_batch(name)
    each, means = gradients(name, batch), statistics(name, "fisher_diag").means
    assert set(means) == set(each[0])
    for key, leaf in means.items():
        assert_close(leaf, torch.stack([gradient[key].square() for gradient in each]).mean(0))


@pytest.mark.parametrize("name", ["ia3", "images"])
def test_blocks_are_the_mean_outer_products_of_gradients_of_vectors(name):
    _, batch = whole_batch(name)
    each, means = gradients(name, batch), statistics(name, "fisher_block").means
    assert set(means) == {key for key, leaf in each[0].items() if leaf.ndim == 1}
    for key, leaf in means.items():
        assert_close(leaf, torch.stack([torch.outer(gradient[key], gradient[key]) for gradient in each]).mean(0))


@pytest.mark.parametrize(
    ("name", "kind"), [("text", "fisher_diag"), ("text", "gram_out"), ("images", "fisher_diag"), ("images", "gram_out")]
)
def test_expected_labels_are_the_sum_over_classes_by_their_probabilities(name, kind):
    family, batch = whole_batch(name, 2)
    entries = family.on_device(family.pretrained)
    probabilities = family.log_probs(entries, batch).softmax(1)
    total, count = {}, {}
    for choice in range(probabilities.shape[1]):
        for row in range(len(batch)):
            collector = COLLECTORS[kind](family, entries)
            collector.add(family.with_choice(batch, torch.full((len(batch),), choice)).take(torch.tensor([row])), torch.ones(1))
            statistic = next(each for each in collector.statistics if each.kind == kind)
            for key, leaf in statistic.sums.items():
                total[key] = total.get(key, 0) + probabilities[row, choice] * leaf
                count[key] = count.get(key, 0) + probabilities[row, choice] * statistic.counts[key]
    expected = statistics(name, kind, labels="expected", examples=2)
    for key, leaf in expected.means.items():
        mean = total[key] / count[key]
        assert_close(leaf.triu() if "gram" in kind else leaf, (mean.triu() if "gram" in kind else mean).float())


@pytest.mark.parametrize("panel", [7, 512])
def test_gram_matrices_are_the_means_over_the_tokens_that_count(panel, monkeypatch):
    monkeypatch.setattr(gram, "PANEL", panel)
    family, batch = whole_batch("text")
    seen = {}
    hooks = [family.module.get_submodule(key.removesuffix(".weight")).register_forward_hook(
        lambda module, inputs, output, key=key: seen.update({key: inputs[0].detach()})) for key in family.linear_layers()]  # fmt: skip
    family.objective(family.on_device(family.pretrained), batch)
    for hook in hooks:
        hook.remove()
    found = statistics("text", "gram_in")
    counts = {"input": (batch.inputs["input"] != 0).sum().item(), "target": (batch.inputs["target"] != 0).sum().item()}
    for key, inputs in seen.items():
        is_input = key.startswith("encoder") or "EncDecAttention.k" in key or "EncDecAttention.v" in key
        mask = batch.inputs["input" if is_input else "target"] != 0
        first = found.aliases.get(key, key)
        assert_close(found.means[first], inputs[mask].T @ inputs[mask] / mask.sum())
        assert found.counts[first] == counts["input" if is_input else "target"]
    assert counts["input"] != counts["target"]


def test_tokens_that_do_not_count_add_no_gradients():
    """As the start that the released code leaves before answers that it draws: what follows sees it, so it has a gradient."""
    family, batch = whole_batch("text")
    batch = replace(batch, inputs={**batch.inputs, "target": nn.functional.pad(batch.inputs["target"], (1, 0))})
    collector = COLLECTORS["gram_out"](family, family.on_device(family.pretrained))
    collector.add(batch, torch.ones(6))
    outputs = {}
    hooks = [family.module.get_submodule(key.removesuffix(".weight")).register_forward_hook(
        lambda module, inputs, output, key=key: outputs.update({key: output})) for key in family.linear_layers()]  # fmt: skip
    entries = {key: leaf.clone().requires_grad_() for key, leaf in family.on_device(family.pretrained).items()}
    objective = family.objective(entries, batch).sum()
    for hook in hooks:
        hook.remove()
    found = collector.statistics[1].means
    key, mask = "decoder.block.0.layer.0.SelfAttention.k.weight", batch.inputs["target"] != 0
    (gradient,) = torch.autograd.grad(objective, [outputs[key]])
    assert gradient[:, 0].any() and not mask[:, 0].any()
    assert_close(found[key], gradient[mask].T @ gradient[mask] / mask.sum())


def test_layers_that_read_one_tensor_share_a_matrix():
    aliases = statistics("text", "gram_in").aliases
    decoder = [f"decoder.block.{block}.layer.1.EncDecAttention.{name}.weight" for block in (0, 1) for name in "kv"]
    assert {aliases.get(name, name) for name in decoder} == {decoder[0]}
    assert aliases["encoder.block.1.layer.1.DenseReluDense.wi_1.weight"] == "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
    assert aliases["encoder.block.0.layer.0.SelfAttention.v.weight"] == "encoder.block.0.layer.0.SelfAttention.q.weight"


def test_the_output_layer_has_inputs_and_no_matrix_of_logits():
    assert "lm_head.weight" in statistics("text", "gram_in").sums
    outputs = statistics("text", "gram_out").sums
    assert set(outputs) == set(text_family().linear_layers()) - {"lm_head.weight"}
    assert image_family().output_layers() == []


def test_the_matrices_of_a_tower_are_those_of_its_layers_attention_s_projection_included():
    family, batch = whole_batch("images")
    key = "model.visual.transformer.resblocks.2.attn.in_proj_weight"
    seen = []
    block = family._clip.visual.transformer.resblocks[2]
    hook = block.ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().flatten(0, -2)))
    family.objective(family.on_device(family.pretrained), batch)
    hook.remove()
    found = statistics("images", "gram_in")
    assert set(found.sums) == set(family.linear_layers())
    assert {key.rpartition(".")[2] for key in found.sums} == {"weight", "in_proj_weight"}
    assert_close(found.means[key], seen[0].T @ seen[0] / len(seen[0]))
    assert found.counts[key] == len(seen[0]) == IMAGES * 17
    width = block.attn.embed_dim
    assert statistics("images", "gram_out").means[key].shape == (3 * width, 3 * width)


def test_examples_are_the_first_ones_and_at_most_so_many():
    few = statistics("text", "fisher_diag", size=4, examples=5)
    assert set(few.counts.values()) == {5}
    _, batch = whole_batch("text", 5)
    each = gradients("text", batch)
    for key, leaf in few.means.items():
        assert_close(leaf, torch.stack([gradient[key].square() for gradient in each]).mean(0))
    assert set(statistics("text", "fisher_diag", examples=1000).counts.values()) == {18}


@pytest.mark.parametrize("name", FAMILIES)
def test_drawn_labels_follow_the_seed(name):
    one, again, other = (statistics(name, "fisher_diag", labels="true", seed=seed).means for seed in (0, 0, 3))
    assert all(torch.equal(leaf, again[key]) for key, leaf in one.items())
    assert any(not torch.equal(leaf, other[key]) for key, leaf in one.items())


def test_an_expectation_over_generated_answers_is_refused():
    family = text_family()
    with pytest.raises(UserError, match=r"gamma has no choices .*statistics.labels=empirical or true"):
        collect(
            family,
            family.on_device(family.pretrained),
            GoldenTask("gamma"),
            "fisher_diag",
            replace(SETTINGS, labels="expected"),
            8,
        )


@pytest.mark.parametrize("name", ["ia3", "linear"])
def test_models_without_layers_to_see_say_what_to_use(name):
    family, task = (ia3_family(), GoldenTask("alpha")) if name == "ia3" else (image_family().linearized(), image_task())
    entries = {key: leaf + 0.01 for key, leaf in family.on_device(family.pretrained).items()}
    with pytest.raises(UserError, match=r"no linear layers .*method=fisher.*block_fisher"):
        collect(family, entries, task, "gram_in", SETTINGS, 4)


def test_the_fisher_information_of_a_tangent_model_is_that_of_its_features():
    """Its gradients are the model's own where it is linear around, at the logits that the tangent model has."""
    family, task = image_family().linearized(), image_task()
    entries = {key: leaf + 0.01 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1))
               for key, leaf in family.on_device(family.pretrained).items()}  # fmt: skip
    (found,) = collect(family, entries, task, "fisher_diag", replace(SETTINGS, examples=2), 2)
    batch = next(family.batches(task, "val", 2, range(2)))
    leaves = {key: leaf.clone().requires_grad_() for key, leaf in entries.items()}
    each = [
        torch.autograd.grad(
            family.objective(leaves, batch.take(torch.tensor([row])))[0], list(leaves.values()), allow_unused=True
        )
        for row in (0, 1)
    ]
    for number, key in enumerate(leaves):
        assert_close(found.means[key], (each[0][number].square() + each[1][number].square()) / 2)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.layer(self.layer(inputs))


def test_a_layer_that_computes_twice_is_named():
    module = Twice()

    class Family:
        name = "double"

        def linear_layers(self):
            return ["layer.weight"]

        def objective(self, entries, batch):
            return torch.func.functional_call(module, dict(entries), (batch.inputs,)).log_softmax(1)[:, 0]

    entries = {key: leaf.detach() for key, leaf in module.state_dict().items()}
    with pytest.raises(UserError, match=r"computes layer\.weight twice"):
        COLLECTORS["fisher_diag"](Family(), entries).add(Batch("", torch.randn(3, 2), torch.zeros(3)), torch.ones(3))
