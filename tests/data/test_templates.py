"""Templates: what is rendered, and what strangers' templates cannot do."""

import json
import tracemalloc

import pytest

from src.data.splits import LastRows
from src.data.text.metering import MOST_WORK, TemplateFault
from src.data.text.promptsource import read_templates
from src.data.text.sandbox import render
from src.data.text.spec import Field
from src.data.text.task import TextTask
from src.data.text.templates import Template
from src.data.text.wording import TemplateWording
from src.errors import UserError
from src.runtime.untrusted import read_yaml
from tests.helpers.processes import ROOT

GOLDEN = ROOT / "tests" / "files" / "golden_text"
RENDERED, MODES = (json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("rendered", "modes"))
TEMPLATES = {
    entry["name"]: Template(entry["name"], entry["jinja"], entry["answer_choices"])
    for entry in read_yaml(GOLDEN / "templates.yaml", ["!Template", "!TemplateMetadata"])["templates"].values()
}


@pytest.mark.parametrize("case", RENDERED["rendered"], ids=lambda case: f"{case['template']} {case['row_index']}")
def test_a_row_is_rendered_as_promptsource_renders_it(case):
    parts, choices = TEMPLATES[case["template"]].render(case["row"])
    assert list(parts) == case["parts"] and list(choices) == (case["choices"] or [])


@pytest.mark.parametrize("case", RENDERED["surprising"], ids=lambda case: case["template"])
def test_a_surprising_row_is_rendered_as_promptsource_renders_it(case):
    template, expected = Template(case["template"], case["jinja"], case["answer_choices"]), case["result"]
    if "error" in expected:
        with pytest.raises(TemplateFault, match="fails on a row"):
            template.render(case["row"])
    else:
        parts, choices = template.render(case["row"])
        assert list(parts) == expected["parts"] and list(choices) == (expected["choices"] or [])


class Rows:
    kind, subsets = "Rows", ("train", "val", "test")

    def load(self, subset):
        return MODES["rows"]


@pytest.fixture
def golden_task():
    templates = read_templates(GOLDEN / "templates.yaml", MODES["metrics"], MODES["ignored_names"])
    return TextTask("golden", Rows(), TemplateWording("golden", templates), split_rule=LastRows(1))


def test_the_templates_that_are_kept_are_those_of_the_task_and_its_metric(golden_task):
    assert [template.name for template in golden_task.wording.templates] == MODES["kept_templates_in_order"]


@pytest.mark.parametrize("case", MODES["cases"], ids=lambda case: f"{case['template_idx']} {case['use_answer_choices']}")
def test_rows_are_put_into_templates_in_the_order_of_each_mode(golden_task, case):
    number = case["template_idx"]
    examples = {-1: golden_task.examples, -2: lambda _: golden_task.training_examples()}.get(
        number, lambda split: golden_task.examples_in(split, number)
    )("train")
    found = [examples[index] for index in range(case.get("num_samples", len(examples)))]
    assert [MODES["rows"][example.key[0]]["idx"] for example in found] == [item["idx"] for item in case["items"]]
    assert [example.input for example in found] == [item["input"] for item in case["items"]]
    for example, item in zip(found, case["items"], strict=True):
        if case["use_answer_choices"]:
            assert list(example.choices) == item["answer_choices"] and example.choices[example.label] == example.target
        else:
            assert example.target == item["target"]


@pytest.mark.parametrize("case", [case for case in MODES["mixture_caps_reference"] if "n" in case], ids=lambda case: case["cap"])
def test_a_capped_mixture_is_of_the_published_size(golden_task, case):
    assert len(golden_task.mixture_examples(most=case["cap"])) == case["n"]


def test_a_cap_of_one_more_than_all_takes_all(golden_task):
    """Where the released code fails: 77 examples and a cap of 78."""
    assert len(golden_task.mixture_examples(most=78)) == 77 and len(golden_task.mixture_examples(most=76)) == 76


ROW = {"text": "hey", "items": [1, "z"], "fields": {"key": "v"}}
GOOD = {
    "{{ items | join('-') }} {{ fields.key }} {{ fields['key'].upper() }} {{ text ~ 1 }}": "1-z v V hey1",
    "{% for item in items %}{{ loop.index }}{{ item }}{% if not loop.last %},{% endif %}{% endfor %}": "11,2z",
    "{{ text[0:2] }} {{ items[::-1] }} {{ fields.items() | list }} {{ missing }}": "he ['z', 1] [('key', 'v')] ",
    "{% set total = namespace(n=0) %}{% for item in range(3) %}{% set total.n = total.n + item %}{% endfor %}{{ total.n }}": "3",
    "{{ text.replace('e', 'a') }} {{ ', '.join(['a', 'b']) }} {{ (zip(items, 'ab') | list)[1][1] }} {{ 2 * 3 }}": "hay a, b b 6",
    "{{ 'yes' if text is defined and 'h' in text else 'no' }} {{ items | map('string') | list }}": "yes ['1', 'z']",
}


@pytest.mark.parametrize("source", GOOD)
def test_templates_loop_choose_calculate_and_use_filters(source):
    assert render(source, ROW) == GOOD[source]


GROWING = {
    "a product of a text": "{{ 'a' * 1000000000 }}",
    "a product of a list": "{{ [1, 2] * 1000000000 }}",
    "loops in loops": "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}x{% endfor %}{% endfor %}{% endfor %}",
    "loops that make nothing": "{% for a in range(1000) %}{% for b in range(1000) %}{% set x = 1 %}{% endfor %}{% endfor %}",
    "lists of lists": "{% set b = [text, text] %}" + "{% set b = [b, b] %}" * 60 + "{{ b }}",
    "a list of lists in one expression": "{% set b = ['x' * 500000] %}{{ [b, b, b, b] }}",
    "copies": "{% set b = 'x' * 100000 %}{{ [" + "b[1:], " * 2000 + "b] | length }}",
    "texts of texts": "{% set b = text %}" + "{% set b = b ~ b %}" * 60 + "{{ b }}",
    "sums of texts": "{% set b = text %}" + "{% set b = b + b %}" * 60 + "{{ b }}",
    "products of numbers": "{% set b = 9999999999 %}" + "{% set b = b * b %}" * 60,
    "a replacement": "{{ ('x' * 1000).replace('', 'y' * 100000) }}",
    "a filter that replaces": "{{ ('x' * 1000) | replace('', 'y' * 100000) }}",
    "a separator": "{{ (['x'] * 1000) | join('y' * 100000) }}",
    "a method that joins": "{{ ('y' * 100000).join(['x'] * 1000) }}",
    "a range": "{{ range(100000000) | list }}",
    "a text that grows in a loop": "{% set s = namespace(t='x') %}{% for i in range(1000) %}{% set s.t = s.t ~ s.t %}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("source", GROWING.values(), ids=GROWING)
def test_what_would_grow_is_refused_before_it_does(source):
    tracemalloc.start()
    try:
        with pytest.raises(TemplateFault, match=r"makes more than|counts to more than"):
            render(source, ROW)
        assert tracemalloc.get_traced_memory()[1] < 64 * MOST_WORK
    finally:
        tracemalloc.stop()


REFUSED = {
    "a file": ("{% include '/etc/passwd' %}", "a part that is not read, include"),
    "an import": ("{% import 'os' as os %}", "a part that is not read, import"),
    "a macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "a part that is not read, macro"),
    "a block": ("{% set x %}{{ text }}{% endset %}", "a part that is not read, assignblock"),
    "a power": ("{{ 10 ** 1000000000 }}", "a part that is not read, pow"),
    "a loop that calls itself": ("{% for i in items recursive %}{{ loop(items) }}{% endfor %}", "calls itself"),
    "an unknown filter": ("{{ text | attr('__class__') }}", "No filter named 'attr'"),
    "a filter by name": ("{{ items | map('attr', '__class__') | list }}", "No filter named 'attr'"),
    "a format": ("{{ '{:1000000000}'.format(1) }}", "fails on a row"),
    "a format by percent": ("{{ '%1000000000d' % 1 }}", "formats a text with %"),
    "padding": ("{{ text.ljust(1000000000) }}", "fails on a row"),
    "no end": ("{{ text", "cannot be read as Jinja"),
    "brackets": ("{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "cannot be read as Jinja"),
    "loops deeper than Python's": ("{% for a in items %}" * 50 + "{% endfor %}" * 50, "cannot be read as Jinja"),
    "a long one": ("x" * 2**15, "32,768 characters"),
    "a division": ("{{ 1 / 0 }}", "fails on a row"),
}


@pytest.mark.parametrize("source,problem", REFUSED.values(), ids=REFUSED)
def test_what_templates_may_not_do_is_a_sentence(source, problem):
    with pytest.raises(TemplateFault, match=problem) as fault:
        render(source, ROW)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "path",
    [
        *("text.__class__", "text.__class__.__mro__", "text['__class__']", "fields.__init__.__globals__", "items.append"),
        *("zip.__self__", "namespace.__init__", "range.__globals__", "self.__init__", "loop", "cycler", "lipsum"),
        *("fields.items.__self__", "text.replace.func", "text.upper.__self__", "missing.__class__", "namespace().__class__"),
    ],
)
def test_no_attribute_of_python_is_reached(path):
    assert render(f"{{{{ {path} }}}}", ROW) == ""


def wording(*templates, **more):
    return TemplateWording("Mine", [Template(f"t{number}", *parts) for number, parts in enumerate(templates)], **more)


def test_an_example_has_the_label_of_its_target_or_of_its_column():
    row = {"q": "Which?", "right": 1, "a": "same", "b": "same"}
    choices = ("{{q}} ||| {{answer_choices[right]}}", "{{a}} ||| {{b}}")
    assert wording(choices).example(row, 0).label == 0
    example = wording(choices, label=Field("right", int)).example(row, 0)
    assert (example.input, example.target, example.choices, example.label) == ("Which?", "same", ("same", "same"), 1)


def test_a_generated_answer_has_its_references():
    row = {"q": "Which?", "a": ["this", "that"]}
    assert wording(("{{q}} ||| {{a[0]}}",)).example(row, 0).references == ("this",)
    own = wording(("{{q}} ||| {{a[0]}}",), references=Field("a", tuple))
    assert own.example(row, 0).references == ("this", "that") and own.is_generated and own.columns == ["a", "q"]


@pytest.mark.parametrize(
    "template,label,problem",
    [
        (("no target", "a ||| b"), None, "makes 1 parts of a row"),
        (("{{x}} ||| c", "a ||| b"), None, "has the target c, which is none of the choices a, b"),
        (("{{x}} ||| b", "a ||| b"), Field("x", lambda _: 0), "has the target b, where the label says a"),
        (("{{x}} ||| b", "a ||| b"), Field("x", lambda _: -1), "2 choices, of which a row's label names none"),
        (("{{x}} ||| b", "a ||| b"), Field("label", int), "2 choices, of which a row's label names none"),
        (("{{x | nothing}} ||| b", "a ||| b"), None, "No filter named 'nothing'"),
    ],
)
def test_a_row_that_a_template_does_not_fit_is_named_with_it(template, label, problem):
    with pytest.raises(UserError, match=problem) as error:
        wording(template, label=label).example({"x": "seen"}, 0)
    assert "the template t0 of task Mine" in str(error.value) and "{'x': 'seen'}" in str(error.value)


def test_templates_that_cannot_be_read_are_named_at_once():
    with pytest.raises(UserError) as error:
        _ = wording(("{{a",), ("{{b}} ||| c",), ("{% include a %}",)).columns
    assert [problem.split()[2] for problem in error.value.problems] == ["t0", "t2"]
    with pytest.raises(UserError, match="choices and others without"):
        wording(("a ||| b", "b"), ("a ||| b",))


@pytest.mark.parametrize(
    "text,problem",
    [
        ("[1, 2]", "no file of promptsource's"),
        ("templates: [1]", "no file of promptsource's"),
        ("templates: {a: 1}", "no file of promptsource's"),
        ("templates: {}", "no template that is of the original task and has no metric but Accuracy"),
        ("templates: {a: !Template {name: n, metadata: {original_task: false}}}", "no template"),
        ("templates: {a: !Template {name: n, jinja: 3, metadata: {original_task: true}}}", "is no text"),
        ("templates: {a: !Template {name: n, jinja: j, answer_choices: [1], metadata: {original_task: true}}}", "is no text"),
        ("templates: !!python/object/apply:os.system ['true']", "cannot be read as yaml"),
        ("templates: {a: !Other {name: n}}", "cannot be read as yaml"),
        ("a: &a [" + "x, " * 200 + "]\nb: &b [" + "*a, " * 200 + "]\nc: [" + "*b, " * 200 + "]", "larger than settings are"),
    ],
)
def test_a_file_that_is_not_promptsources_is_a_sentence(text, problem, tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=problem) as error:
        read_templates(path, ["Accuracy"])
    assert str(path) in str(error.value)
