import pytest

from command_line.overrides import repetitions


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["method=ties", "method.k=20", "method.apply_lines=True"], []),
        (["finetuned={one: a, two: {one: b}}", "tasks.A.templates=['{}: a','{}: b']"], []),
        (["~finetuned", "+finetuned={one: a}"], []),
        (["pretrained=a", "pretrained=b"], ["pretrained is given 2 times"]),
        (["+a=1", "++a=2", "a=3"], ["a is given 3 times"]),
        (["finetuned={one: a.safetensors, one: b.safetensors}"], ["finetuned= names one 2 times"]),
        (["finetuned={'one': 'a,b: c', two: [x,y], \"one\": d}"], ["names one 2 times"]),
        (["finetuned={one:a,two:b,two:c,one:d}"], ["names one 2 times", "names two 2 times"]),
    ],
)
def test_what_is_given_twice_is_named(overrides, words):
    problems = repetitions(overrides)
    assert len(problems) == len(words)
    for word, problem in zip(sorted(words), sorted(problems)):
        assert word in problem
