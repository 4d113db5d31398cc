"""Tables of every kind of result, in terminals of every width."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from src.evaluation.scorer import Score
from src.experiments.disentanglement import DisentanglementResult
from src.experiments.merge import MergeResult, TaskScores
from src.experiments.negation import NegationResult, TaskNegation
from src.experiments.record import Result
from src.experiments.single_task import SingleTaskResult

TASKS = ("OxfordIIITPet", "RenderedSST2", "MNIST")
SCORES = [Score(right, 1000) for right in (1000, 987, 123)]
ABOUT = {
    "title": "ViT-B-32 (linear-2), 3 tasks, consensus + LiNeS",
    "config": {},
    "choices": {},
    "question": {},
    "lineage": {},
    "benchmark": "own",
    "seconds": 1.0,
    "notes": ["warning: the fine-tuned model gets 99.9 % of RenderedSST2's test data and 12.3 % of its validation data right"],
}
MERGE = {"curve": [], "grid_size": 3, "summary": {"trade-off": 0.1234}, "bytes_stored": 1, **ABOUT}
SAME, DIFFERENT = dict.fromkeys(TASKS, 0.3), dict(zip(TASKS, (0.1234, 1.5, None)))
TRIPLES = {task: TaskScores(*SCORES) for task in TASKS}
NEGATIONS = {task: TaskNegation(0.123456, [], (SCORES[0], SCORES[1]), (SCORES[1], SCORES[2])) for task in TASKS}
SHARES = {task: [[0.123] * 3] * 3 for task in TASKS[:2]}
RESULTS = {
    "merge": MergeResult(coefficients=SAME, scores=TRIPLES, **MERGE),
    "merge, coefficients by task": MergeResult(coefficients=DIFFERENT, scores=TRIPLES, **MERGE),
    "negation": NegationResult(tasks=NEGATIONS, control="ImageNet", **ABOUT),
    "single_task": SingleTaskResult(scores={task: {"val": SCORES[0], "test": SCORES[1]} for task in TASKS}, **ABOUT),
    "disentanglement": DisentanglementResult(grid=[-1.0, 0.0, 1.0], shares=SHARES, **ABOUT),
}


def shown(name: str, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    RESULTS[name].show(console)
    return console.file.getvalue()


def test_every_kind_of_result_is_here():
    assert {type(result) for result in RESULTS.values()} == set(Result.__subclasses__())


@pytest.mark.parametrize("width", [20, 40, 50, 60, 70, 80, 100])
@pytest.mark.parametrize("name", RESULTS)
def test_no_number_is_cut_and_nothing_is_left_out(name, width):
    wide, narrow = shown(name, 300), shown(name, width)
    numbers = r"-?\d+\.\d+"
    assert Counter(re.findall(numbers, narrow)) == Counter(re.findall(numbers, wide)) and "…" not in narrow
    table = narrow.split("benchmark:")[0]
    assert max(map(len, table.splitlines())) <= max(width, 40)
    letters = Counter(re.sub(r"[^A-Za-z]", "", wide))
    assert Counter(re.sub(r"[^A-Za-z]", "", narrow)) == letters


def test_a_wide_terminal_shows_the_table_in_rules():
    lines = shown("disentanglement", 100).splitlines()
    assert lines[1].startswith("┏━") and re.fullmatch("┃ both coefficients +┃ +error ┃", lines[2])
    assert re.fullmatch(r"│ everywhere +│ +24\.6 │", lines[4])
