import random
import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from command_line.config import compose_config
from command_line.flags import Flag, parse_flags
from command_line.overrides import PLAIN, parse_overrides, quoted, repetitions
from command_line.paths import file_sources
from src.errors import UserError

ODD = "ab1/.~=()[]{},:#$&*?!'\"\\ \t\né漢-+@%|;<>`^_"
USUAL = [
    "epoch=1-step=10.ckpt",
    "model (1).safetensors",
    "café/base.pt",
    "~/base.pt",
    "it's.pt",
    "-m",
    "null",
    "1e3",
    "",
    "${HOME}/x",
]


def odd_texts(count):
    draw = random.Random(0)
    return USUAL + ["".join(draw.choices(ODD, k=draw.randint(1, 9))) for _ in range(count)]


def read_back(typed):
    """Return the values that a program gets, by option, from overrides as they are typed in a shell."""
    overrides = OverridesParser.create().parse_overrides(shlex.split(typed))
    return OmegaConf.to_container(OmegaConf.create({each.key_or_group: each.value() for each in overrides}), resolve=True)


@pytest.mark.parametrize("text", odd_texts(150))
def test_an_override_that_a_message_suggests_gives_the_very_value_when_it_is_typed(text):
    assert read_back(quoted("pretrained", text)) == {"pretrained": text}
    assert read_back(quoted("finetuned", [text, {"cars": text}])) == {"finetuned": [text, {"cars": text}]}


@pytest.mark.parametrize("value", [None, True, 3, 0.25, [1, "1"], {"a": "b"}, [], {}])
def test_values_of_every_type_are_typed_as_they_are(value):
    assert read_back(quoted("option", value)) == {"option": value}


def test_quotes_are_written_only_where_they_are_needed_and_readable_ones():
    assert quoted("pretrained", "a/b-1.pt") == "pretrained=a/b-1.pt"
    assert quoted("pretrained", "epoch=1-step=10.ckpt") == "\"pretrained='epoch=1-step=10.ckpt'\""
    assert quoted("finetuned", {"one": "a.pt", "two": "b c.pt"}) == "\"finetuned={one: a.pt, two: 'b c.pt'}\""


@pytest.mark.parametrize("text", [text for text in odd_texts(150) if text and not set(text) & set("[]{}'\"\\$ \t\n,")])
def test_a_value_that_hydra_cannot_read_is_given_back_in_quotes(text):
    overrides, problems = parse_overrides([f"pretrained={text}"])
    if problems:
        (suggestion,) = (problem.split("in quotes: ")[1] for problem in problems)
        assert read_back(suggestion) == {"pretrained": text}
    else:
        assert len(overrides) == 1


@pytest.mark.parametrize(
    "typed, suggestion",
    [
        ("finetuned=[a=b.pt,c (1).pt,d.pt]", "\"finetuned=['a=b.pt','c (1).pt',d.pt]\""),
        ("finetuned={cars: a=b.pt, dtd: [é,f]}", "\"finetuned={cars: 'a=b.pt', dtd: ['é',f]}\""),
        ("pretrained=~/base.pt", "\"pretrained='~/base.pt'\""),
        ("finetuned={cars:", "close brackets and quotes"),
        ("pretrained='abc", "close brackets and quotes"),
        ("ties", "an option is typed key=value"),
        ("=3", "an option is typed key=value"),
        ("mé=3", "an option is typed key=value"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_a_way_out(typed, suggestion):
    (problem,) = parse_overrides(["method=ties", typed])[1]
    assert suggestion in problem and typed in problem


def test_messages_suggest_overrides_that_can_be_typed():
    """Fed with odd paths and names, whatever prints an override prints one that gives just these."""
    files = compose_config(["model=files", "output=o", "pretrained=p"])
    for text in filter(str.isprintable, odd_texts(90)):  # messages show control characters escaped
        folder = "odd" + text.replace("/", "_")
        for path, words in ((f"{folder}/a.pt", "would both be task a"), (f"{folder}/.pt", "cannot be called")):
            files.finetuned = [literal(path)] * (2 if "a.pt" in path else 1)
            with pytest.raises(UserError, match=words) as error:
                file_sources(files)
            suggestion = re.search(r"(name them: |name it as in )(.*)", str(error.value), re.DOTALL)[2]
            assert set(read_back(suggestion)["finetuned"].values()) == {path}


def literal(text):
    """Return text as a configuration holds it, so that `${` in it is no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)


def test_flags_reach_the_configuration_as_they_were_typed(monkeypatch):
    for text in odd_texts(60):
        if PLAIN.fullmatch(text):
            continue  # null and 1e3 are what they are in overrides
        monkeypatch.setattr("sys.argv", ["finetune.py", f"--save={text}"])
        (override,), _ = parse_flags("", (Flag("save", "model_location", ""),))
        assert read_back(shlex.quote(override)) == {"model_location": text}


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
