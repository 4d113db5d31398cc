"""Sentences are single lines that a terminal can show, whatever the names in them."""

import pytest

from src.errors import LONGEST_SENTENCE, UserError, escaped, plural


@pytest.mark.parametrize(
    "name,shown",
    [
        ("\x1b[2J", "\\x1b[2J"), ("a\nerror: b", "a\\nerror: b"), ("\ud800", "\\ud800"), ("\u202e", "\\u202e"), ("\r\x07", "\\r\\x07"),
        ("été 模型 'x'", "été 模型 'x'"),
    ],
)  # fmt: skip
def test_what_a_terminal_obeys_is_escaped(name, shown):
    error = UserError([f"{name} is no model", "another"])
    assert error.problems == [f"{shown} is no model", "another"]
    assert str(error).splitlines() == error.problems


def test_a_long_sentence_keeps_its_ends():
    sentence = escaped("path " + "k" * 10**6 + "; get it again")
    assert len(sentence) <= LONGEST_SENTENCE + 5 and sentence.startswith("path k") and sentence.endswith("; get it again")


def test_numbers_of_things_are_in_the_singular_or_the_plural():
    assert [plural(count, "task") for count in (0, 1, 2, 3000)] == ["0 tasks", "1 task", "2 tasks", "3,000 tasks"]
    assert [plural(count, "class") for count in (1, 2)] == ["1 class", "2 classes"]
    assert [plural(count, "entry") for count in (1, 2)] == ["1 entry", "2 entries"]
