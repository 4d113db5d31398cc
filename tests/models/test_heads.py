from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.data.registry import find_tasks
from src.errors import UserError
from src.models.clip.heads import Heads, prompts_of, zero_shot_head


def heads(folder, published=lambda task: None, source=None, parity=False) -> Heads:
    return Heads(folder, published, source, parity)


def test_synonyms_are_averaged_and_parity_prints_the_list_as_the_released_head_does(tmp_path):
    (task,) = find_tasks(["FER2013"], tmp_path)
    by_synonym, with_lists = prompts_of(task, parity=False), prompts_of(task, parity=True)
    assert [len(group) for group in by_synonym] == [6, 6, 6, 12, 12, 18, 12] and [len(group) for group in with_lists] == [6] * 7
    assert "a photo of a happy looking face." in by_synonym[3] and "a photo of a smiling looking face." in by_synonym[3]
    assert with_lists[0][0] == "a photo of a ['angry'] looking face."
    assert with_lists[3][0] == "a photo of a ['happy', 'smiling'] looking face."


def test_parity_changes_no_task_without_synonyms(tmp_path):
    (task,) = find_tasks(["MNIST"], tmp_path)
    assert prompts_of(task, True) == prompts_of(task, False) and prompts_of(task, True)[7] == ['a photo of the number: "7".']


class Words(nn.Module):
    """Text features by the length of the text."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens, normalize):
        features = torch.stack([torch.stack((length.cos(), length.sin(), length * 0 + 1)) for length in tokens])
        return nn.functional.normalize(features, dim=-1)


def test_a_row_is_the_unit_mean_of_unit_features_times_the_scale():
    def tokenize(texts):
        return torch.tensor([float(len(text)) for text in texts])

    head = zero_shot_head(Words(), tokenize, [["a", "bbb"], ["cc"]], torch.device("cpu"))
    first = Words().encode_text(torch.tensor([1.0, 3.0]), True).mean(0)
    torch.testing.assert_close(head[0], first / first.norm() * torch.tensor(2.0).exp())
    torch.testing.assert_close(head.norm(dim=1), torch.tensor(2.0).exp().expand(2))


def test_heads_are_kept_by_prompts_and_tower(tmp_path):
    task = SimpleNamespace(name="T", classes=["a", ("b", "c")], templates=["{}."])
    calls = []

    def build(prompts):
        calls.append(prompts)
        return torch.ones(2, 3) * len(calls)

    from_prompts = heads(tmp_path)
    first, second = (from_prompts.weight(task, lambda: "tower", build) for _ in range(2))
    assert torch.equal(first, second) and len(calls) == 1
    assert calls[0] == [["a."], ["b.", "c."]] and (tmp_path / "T.safetensors").exists()
    from_prompts.weight(task, lambda: "another", build)
    heads(tmp_path, parity=True).weight(task, lambda: "another", build)
    assert heads(tmp_path, lambda name: tmp_path / "T.safetensors").published_file("T") is None  # built here, not published
    assert len(calls) == 3 and calls[2] == [["a."], ["['b', 'c']."]]


def test_published_heads_are_checked(tmp_path):
    task = SimpleNamespace(name="T", classes=["a", "b"], templates=["{}."])
    path = tmp_path / "head_TVal.pt"
    for content, words in (
        ({"weight": torch.ones(3, 4)}, "has 3 classes, and T has 2"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "has a bias"),
        ({"visual.proj": torch.ones(2, 4)}, "is no classification head"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=words):
            heads(tmp_path, lambda name: path).weight(task, lambda: "", lambda prompts: None)
    torch.save({"weight": torch.ones(2, 4, dtype=torch.float16), "bias": torch.zeros(2)}, path)
    head = heads(tmp_path, lambda name: path).weight(task, lambda: "", lambda prompts: None)
    assert head.dtype == torch.float32 and head.shape == (2, 4)
    assert heads(tmp_path, lambda name: path, source="prompts").published_file("T") is None


def test_unknown_choices_are_named(tmp_path):
    with pytest.raises(UserError, match=r"heads\.source is published, prompts or null; got drive"):
        heads(tmp_path, source="drive")
    with pytest.raises(UserError, match=r"heads\.parity"):
        heads(tmp_path, parity="yes")
