"""Text tasks: splits, orders of templates, mixtures."""

from collections import Counter
from dataclasses import dataclass

import pytest

from src.data.splits import LastRows
from src.data.text.examples import TextExample
from src.data.text.orders import capped, one_template, round_robin
from src.data.text.task import AsWritten, TextTask
from src.errors import UserError


@dataclass
class Numbers:
    """A source whose rows are numbers from 0.

    sizes: rows by subset.
    """

    sizes: dict
    kind: str = "Numbers"

    @property
    def subsets(self):
        return tuple(self.sizes)

    def load(self, subset):
        return range(self.sizes[subset])

    def fingerprint(self, subset):
        return str(self.sizes[subset])


@dataclass
class Spelled:
    """A wording of three templates."""

    facts: list
    is_generated: bool = False

    def __len__(self):
        return 3

    def example(self, row, template):
        return TextExample(f"{'abc'[template]}{row}", "x")


def numbers(train=10, test=4, facts=(), held_out=3, **more):
    return TextTask(
        "Numbers", Numbers({"train": train, "test": test, **more}), Spelled(list(facts)), split_rule=LastRows(held_out)
    )


def read(examples):
    return [(example.input, example.key) for example in (examples[number] for number in range(len(examples)))]


def test_evaluation_takes_templates_by_turns_and_training_all_of_each_row():
    task = numbers()
    assert read(task.examples("val")) == [("a7", (0, 0)), ("b8", (1, 1)), ("c9", (2, 2))]
    assert [text for text, _ in read(task.examples("test"))] == ["a0", "b1", "c2", "a3"]
    assert read(task.examples_in("val", 2)) == [("c7", (0, 2)), ("c8", (1, 2)), ("c9", (2, 2))]
    training = read(task.training_examples())
    assert training[:4] == [("a0", (0, 0)), ("b0", (0, 1)), ("c0", (0, 2)), ("a1", (1, 0))]
    assert len(training) == 21 and len(set(training)) == 21
    with pytest.raises(IndexError):
        task.training_examples()[21]


def test_a_source_with_validation_rows_of_its_own_uses_them():
    task = numbers(val=2)
    assert [text for text, _ in read(task.examples("val"))] == ["a0", "b1"] and len(task.examples("train")) == 10


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_too_few_rows_to_hold_some_out_are_named(rows):
    with pytest.raises(UserError, match=f"Numbers has {rows} training examples"):
        numbers(train=rows).examples("val")


def test_digests_follow_rows_rule_and_wording():
    splits, tasks = ("train", "val", "test"), {
        "same": numbers(), "rows": numbers(train=11), "rule": numbers(held_out=4), "wording": numbers(facts=["new"]),
    }  # fmt: skip
    changed = {
        name: [task.fingerprint(split) != numbers().fingerprint(split) for split in splits] for name, task in tasks.items()
    }
    assert changed == {"same": [False] * 3, "rows": [True, True, False], "rule": [True, True, False], "wording": [True] * 3}
    assert [task.definition != numbers().definition for task in tasks.values()] == [False, False, False, True]


@pytest.mark.parametrize("most", [3, 7, 20, 29])
def test_a_mixture_takes_an_equal_share_of_each_template(most):
    order = capped(10, 3, most, "Numbers")
    shares = Counter(place % 3 for place in order)
    assert len(set(order)) == most and [shares[template] for template in range(3)] == [
        most // 3 + (template < most % 3) for template in range(3)
    ]


def test_a_mixture_draws_each_templates_rows_apart_and_follows_seed_and_task():
    rows = [[place // 3 for place in capped(100, 3, 60, "a") if place % 3 == template] for template in range(3)]
    assert rows[0] != rows[1] != rows[2]
    assert list(capped(100, 3, 60, "a")) == list(capped(100, 3, 60, "a"))
    assert list(capped(100, 3, 60, "a")) != list(capped(100, 3, 60, "b"))
    assert list(capped(100, 3, 60, "a")) != list(capped(100, 3, 60, "a", seed=1))
    assert len(numbers().mixture_examples()) == 21 and len(numbers().mixture_examples(most=5)) == 5


@pytest.mark.parametrize("rows,templates", [(1, 1), (7, 3), (4, 9)])
def test_orders_are_places_of_the_product(rows, templates):
    assert [divmod(place, templates) for place in round_robin(rows, templates)] == [(j, j % templates) for j in range(rows)]
    for number in range(templates):
        assert [divmod(place, templates) for place in one_template(rows, templates, number)] == [(j, number) for j in range(rows)]


def test_rows_that_are_examples_are_kept_as_they_are():
    class Written(Numbers):
        def load(self, subset):
            return [TextExample(f"{number}?", "yes", ("no", "yes"), 1) for number in range(self.sizes[subset])]

    task = TextTask("Written", Written({"train": 5, "test": 2}), AsWritten(), split_rule=LastRows(2))
    assert task.examples("val")[1] == TextExample("4?", "yes", ("no", "yes"), 1, key=(1, 0))
    assert not task.is_generated and len(task.training_examples()) == 3
