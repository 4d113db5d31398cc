"""Patterns of others match as Python's own do, and those that would never end are stopped."""

import re

import pytest

from src.runtime import patterns
from src.runtime.patterns import PatternError, TimeLimit, compile_pattern

NAMES = ["model.layers.3.attn.q_proj", "model.layers.12.mlp", "q_proj", "", "stage(1).x", "h.0.é"]
SLOW = r"(.|\w)*(.|\d)*(.|l)*(.|a)*(?<=zz)"


@pytest.mark.parametrize(
    "text", [r"(?:.*\.)?(?:q_proj|mlp)", r"layers\.(\d+)\.", r".*\.\d{1,3}\..*", r"[^.]+", r"stage\((\d)\)\.", "", r"\w+?"]
)
def test_patterns_match_as_those_of_re(text):
    own, python = compile_pattern(text), re.compile(text)
    assert own.groups == python.groups
    for name in NAMES:
        for found, expected in ((own.search(name), python.search(name)), (own.fullmatch(name), python.fullmatch(name))):
            assert (found and (found.span(), found.groups())) == (expected and (expected.span(), expected.groups()))


def test_a_match_that_never_ends_is_stopped_and_leaves_no_time_to_others():
    limit = TimeLimit(0.05)
    with pytest.raises(PatternError, match="too long to match"):
        compile_pattern(SLOW, limit).fullmatch("layers." * 20)
    assert limit.seconds <= 0
    with pytest.raises(PatternError, match="too long to match"):
        compile_pattern(SLOW, limit).fullmatch("layers." * 20)


@pytest.mark.parametrize(
    "text",
    ["(", "(?R)?a", "a{11}{10}", "(?:(?:a{9}){9}){9}", "a" * (patterns.MAX_LENGTH + 1), "(" * 990, "x{99999999999}", None, 3],
)
def test_what_is_no_pattern_or_too_long_a_one_is_refused(text):
    with pytest.raises(PatternError):
        compile_pattern(text)
