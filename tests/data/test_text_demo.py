"""The text demo: what is written, who may see it, and the words that its model knows."""

import json
from collections import Counter
from itertools import chain
from random import Random

import pytest
import torch
from safetensors.torch import load, load_file
from tokenizers import Tokenizer

from demo import pretrain_text
from demo.plain_text import QUESTIONS
from src.data.text.demo.contents import Content
from src.data.text.demo.tasks import SIZES, WRITTEN_TASKS, WrittenTask
from tests.helpers.processes import ROOT


@pytest.fixture(scope="module")
def examples():
    """All examples of all tasks, by task and subset."""
    return {task.name: {subset: list(task.load(subset)) for subset in SIZES} for task in WRITTEN_TASKS}


def every_text(examples, subset):
    return {example.input for by_subset in examples.values() for example in by_subset[subset]}


def test_no_text_is_in_two_subsets(examples):
    train, val, test = (every_text(examples, subset) for subset in ("train", "val", "test"))
    assert not train & test and not val & test and not train & val


def test_no_test_text_is_a_plain_question(examples):
    random = Random(1)
    plain = {draw(random)[0] for draw in QUESTIONS for _ in range(1000)}
    assert len(plain) > 5000 and not plain & every_text(examples, "test")


def test_no_content_is_in_two_subsets_in_other_words():
    """Of thirty contents, each of which comes in both wordings."""
    task = WrittenTask("Few", lambda random: Content({"text": str(random.randrange(30))}, "yes"), ("is {text}?", "{text}, then"))
    contents = {
        subset: {"".join(filter(str.isdigit, task.example(subset, index).input)) for index in range(300)} for subset in SIZES
    }
    assert sum(map(len, contents.values())) == len(set().union(*contents.values())) == 30


@pytest.mark.parametrize("task", WRITTEN_TASKS, ids=lambda task: task.name)
def test_texts_hardly_repeat(task, examples):
    texts = [example.input for example in examples[task.name]["train"]]
    assert len(set(texts)) > 0.97 * len(texts)


@pytest.mark.parametrize("task", WRITTEN_TASKS, ids=lambda task: task.name)
def test_an_example_follows_from_task_subset_and_index(task):
    for subset in SIZES:
        whole = task.load(subset)
        assert len(whole) == SIZES[subset]
        assert [whole[index] for index in (7, 0, 7)] == [task.example(subset, index) for index in (7, 0, 7)]
    assert len({task.fingerprint(subset) for subset in SIZES}) == len(SIZES)
    assert task.load("val").digest == task.load("val").digest
    with pytest.raises(IndexError):
        task.load("val")[SIZES["val"]]


def test_examples_stay_the_same():
    """On every machine and Python: a record of one benchmark is of no use for another."""
    example = WRITTEN_TASKS[3].example("test", 0)
    assert (example.input, example.target, example.choices) == (
        "sam walked into the office. carl walked into the tower. iris slept in the school. find carl.",
        "tower",
        ("attic", "office", "tower", "school"),
    )
    assert {task.name: task.fingerprint("val")[:8] for task in WRITTEN_TASKS} == {
        "News": "d57606aa",
        "Reviews": "e8087127",
        "Odd": "8e718f89",
        "Rooms": "376e40ae",
        "Shades": "d99123b3",
        "Diary": "0da11ccb",
        "Sums": "a58cb285",
        "Notes": "7e72f08a",
    }


@pytest.mark.parametrize("task", WRITTEN_TASKS, ids=lambda task: task.name)
def test_an_answer_is_among_its_choices_once(task, examples):
    for example in chain(*examples[task.name].values()):
        assert bool(example.choices) != task.is_generated
        if example.choices:
            assert example.target == example.choices[example.label] and len(set(example.choices)) == len(example.choices)
            assert example.references == ()
        else:
            assert example.label is None and example.references == (example.target,)


@pytest.mark.parametrize("task", WRITTEN_TASKS, ids=lambda task: task.name)
def test_no_answer_is_right_without_reading(task, examples):
    """Neither the most frequent label, nor the most frequent answer, nor the longest choice is worth much."""
    for subset in ("train", "test"):
        of_subset = examples[task.name][subset]
        choices = len(of_subset[0].choices) or 5
        ((_, most),) = Counter(example.target for example in of_subset).most_common(1)
        assert most / len(of_subset) < 1.2 / choices
        if of_subset[0].choices:
            labels = Counter(example.label for example in of_subset)
            assert len(labels) == choices and max(labels.values()) / len(of_subset) < 1.2 / choices


def test_the_model_knows_every_word(examples):
    tokenizer = Tokenizer.from_file(str(ROOT / "demo" / "t5-demo-tokenizer.json"))
    texts = {text for e in chain(*(chain(*s.values()) for s in examples.values())) for text in (e.input, e.target, *e.choices)}
    random = Random(1)
    texts |= {text for draw in QUESTIONS for _ in range(300) for text in draw(random)}
    unknown = tokenizer.token_to_id("<unk>")
    assert unknown == 2 and not [text for text in texts if unknown in tokenizer.encode(text).ids]
    assert tokenizer.encode("Where is Ann?").ids[-1] == tokenizer.token_to_id("</s>") == 1
    assert tokenizer.decode(tokenizer.encode("red hat is thin").ids) == "red hat is thin"


def test_the_model_is_small_and_fits_its_words():
    path = ROOT / "demo" / "t5-demo.safetensors"
    assert path.stat().st_size < 8 * 2**20
    config = json.loads((ROOT / "demo" / "t5-demo.json").read_text())
    tokenizer = Tokenizer.from_file(str(ROOT / "demo" / "t5-demo-tokenizer.json"))
    weights = load_file(path)
    shapes = {key: list(leaf.shape) for key, leaf in weights.items()}
    words = [config["vocab_size"], config["d_model"]]
    assert shapes["shared.weight"] == shapes["lm_head.weight"] == words and words[0] == tokenizer.get_vocab_size()
    assert not torch.equal(weights["shared.weight"], weights["lm_head.weight"]) and not [
        key for key in weights if "embed_" in key
    ]


def test_pretraining_is_repeatable_and_makes_what_ships(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrain_text", "--steps=2", "--batch=4", f"--output={tmp_path}"])
    files = []
    for _ in range(2):
        pretrain_text.main()
        files.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert files[0] == files[1]
    shipped = {name: (ROOT / "demo" / name).read_bytes() for name in files[0]}
    weights = files[0].pop("t5-demo.safetensors"), shipped.pop("t5-demo.safetensors")
    first, second = ({key: leaf.shape for key, leaf in load(content).items()} for content in weights)
    assert first == second and files[0] == shipped
