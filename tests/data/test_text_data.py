"""The published text datasets, and users' own: what is read of them, and what is said where that fails."""

import csv
import json
import os
import pickle
from collections import Counter
from dataclasses import replace
from functools import partial

import pyarrow
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf

from command_line.config import compose_config
from command_line.preflight import selected_tasks
from src.data.registry import find_tasks, require_data
from src.data.text.specs import SPECS
from src.data.text.table import PROMPTS
from src.downloads.hub import fetch
from src.errors import UserError
from tests.data.test_hostile_data import bounded, is_sentence
from tests.helpers.hub_server import Hub, serving
from tests.helpers.processes import ROOT
from tests.helpers.text_rows import HUB, write_hub_files, write_parquet
from tests.hostile import tables

GOLDEN = json.loads((ROOT / "tests/files/golden_text/splits.json").read_text())
CHOICES = {"cosmos_qa": 4, "social_iqa": 3, "quail": 4, "qasc": 8, "ropes": 0, "mnli": 3}  # 2 elsewhere
LISTS = {"p3_eight_qa": 8, "p3_ties": 7, "glue_mnli_rte": 2, "glue_qqp_rte": 2, "glue_qnli_rte": 2}


def unsized(monkeypatch, *names):
    """Let files of other sizes than the published ones be read."""
    for name in names:
        monkeypatch.setitem(SPECS, name, replace(SPECS[name], sizes={"train": None}))


def examples(dataset):
    return [dataset[number] for number in range(len(dataset))]


@pytest.mark.parametrize("name", GOLDEN["rows"])
def test_splits_are_those_of_the_released_code(name, tmp_path, monkeypatch):
    """But for qasc's test rows: there they are the validation rows, by a fault."""
    unsized(monkeypatch, name)
    write_hub_files(name, tmp_path, GOLDEN["hub_rows"]["train"], GOLDEN["hub_rows"]["validation"])
    task = find_tasks([name], tmp_path)[0]
    starts = {"train": 0, "val": len(task.examples("train")), "test": 0}
    for split, published in (("train", "train"), ("val", "validation"), ("test", "test")):
        facts = GOLDEN["rows"][name][published if (name, split) != ("qasc", "test") else "train"]
        found = task.examples(split)
        rows = [task.source.load("test" if split == "test" else "train")[starts[split] + number] for number in range(9)]
        assert len(found) == facts["rows"] if (name, split) != ("qasc", "test") else len(found) == 321
        assert starts[split] == facts["first_idx"]
        assert [HUB[name][2](starts[split] + number) for number in range(9)] == facts["labels_first_9"]
        if name != "ropes":
            assert [task.wording.label(row) for row in rows] == facts["labels_first_9"]


@pytest.mark.parametrize("name", SPECS)
def test_every_template_puts_rows_into_an_input_a_target_and_choices(name, tmp_path, monkeypatch):
    unsized(monkeypatch, name)
    if name == "story_cloze":
        write_stories(tmp_path / "story_cloze")
        answers = [0, 1, 0, 1]
    else:
        write_hub_files(name, tmp_path, SPECS[name].held_out + 1, 4)
        answers = [HUB[name][2](number) for number in range(4)]
    task = find_tasks([name], tmp_path)[0]
    assert len(task.wording) >= 3 and task.is_generated == (name == "ropes")
    for template in range(len(task.wording)):
        found = examples(task.examples_in("test", template))
        assert [example.label for example in found] == answers and len({example.input for example in found}) == 4
        for example, answer in zip(found, answers, strict=True):
            assert example.input and example.target and "{" not in example.input + example.target
            if name == "ropes":
                assert example.choices == () and example.references == (example.target,)
            else:
                assert len(set(example.choices)) == CHOICES.get(name, 2) and example.choices[answer] == example.target
    shared = pickle.loads(pickle.dumps(task.examples("test")))  # as spawned workers get them
    assert examples(shared) == examples(task.examples("test"))
    assert [example.key for example in examples(shared)] == [(number, number % len(task.wording)) for number in range(4)]


def test_templates_of_a_data_set_have_its_kinds_of_choices():
    kinds = {"cosmos_qa": "letters texts", "social_iqa": "letters texts", "quail": "letters texts", "qasc": "letters texts",
             "quartz": "texts", "paws": "true words", "wiki_qa": "true words"}  # fmt: skip
    for task in find_tasks(list(kinds)):
        found = set()
        for template in task.wording.templates:
            first = template.choices.split("|||")[0].strip()
            found.add({"A": "letters", "False": "true", "No": "words"}.get(first, "texts"))
        assert " ".join(sorted(found)) == kinds[task.name], task.name


def test_every_file_of_prompts_is_of_a_task_and_says_what_it_is():
    assert {path.stem for path in PROMPTS.glob("*.yaml")} == set(SPECS)
    for name, spec in SPECS.items():
        head = (PROMPTS / f"{name}.yaml").read_text().split("templates:")[0]
        parts = [line.split(": ")[1] for line in head.splitlines()]
        assert "/".join(parts) == spec.prompts


def write_stories(folder):
    """Write files in the columns of their publisher."""
    names = ["InputStoryid", *(f"InputSentence{n}" for n in range(1, 5)), "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2",
             "AnswerRightEnding"]  # fmt: skip
    folder.mkdir(parents=True)
    for subset, count in (("val", 1001), ("test", 4)):
        with open(folder / f"{subset}.csv", "w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(names)
            lines.writerows([[*(f'{name}, "{n}"' for name in names[:-1]), n % 2 + 1] for n in range(count)])


@pytest.mark.parametrize("name", LISTS)
def test_the_lists_of_text_tasks_are_those_of_the_papers(name):
    tasks = compose_config([f"tasks={name}"]).tasks
    assert len(tasks.names) == LISTS[name] and set(tasks.names) <= set(SPECS)
    assert all(tasks[task].source is None for task in tasks.names)


@pytest.mark.parametrize("name", SPECS)
def test_missing_rows_are_a_sentence_with_their_folder_and_what_helps(name, tmp_path):
    task = find_tasks([name], tmp_path)[0]
    [sentence] = task.problems()
    assert str(tmp_path / name) in sentence and f"tasks.{name}.source=" in sentence
    assert ("download=true" in sentence) == task.is_fetchable == (name != "story_cloze")
    for read in (lambda: task.examples("test"), lambda: task.fingerprint("val")):
        with pytest.raises(UserError, match="is not there"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_files_put_there_by_hand_are_read_and_noted(tmp_path, monkeypatch):
    unsized(monkeypatch, "rte")
    row = HUB["rte"][1]
    write_parquet(tmp_path / "rte/train.parquet", [row(n) for n in range(1003)])
    write_parquet(tmp_path / "rte/validation.parquet", [row(n) for n in range(2)])
    write_parquet(tmp_path / "rte/test.parquet", [{**row(0), "label": -1}])
    task = find_tasks(["rte"], tmp_path)[0]
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [3, 1000, 2]
    order, own = task.notes
    assert "whose order may not be" in order and "wording is this program's own" in own


def test_a_download_is_noted_for_its_wording_alone(tmp_path, monkeypatch):
    unsized(monkeypatch, "rte")
    write_hub_files("rte", tmp_path, 1001, 2)
    assert len(find_tasks(["rte"], tmp_path)[0].notes) == 1


@pytest.fixture
def server(monkeypatch):
    """A Hub on this machine that the real client asks."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Hub()) as local_hub:
        monkeypatch.setattr("src.data.hub_copy.fetch_files", partial(fetch, endpoint=local_hub.address))
        yield local_hub


def test_a_data_set_that_is_published_as_a_script_is_fetched_as_the_hub_converts_it(server, tmp_path, monkeypatch):
    unsized(monkeypatch, "cosmos_qa")
    write_hub_files("cosmos_qa", tmp_path / "source", 1001, 4)
    folder = tmp_path / "source" / "hub" / "allenai--cosmos_qa@refs--convert--parquet"
    served = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}
    server.branches["refs/convert/parquet"] = server.add("allenai/cosmos_qa", served, "datasets")
    server.add("allenai/cosmos_qa", {"cosmos_qa.py": b"a script"}, "datasets")
    task = find_tasks(["cosmos_qa"], tmp_path)[0]
    require_data([task], download=True)
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [1, 1000, 4]
    assert {path for path, _ in server.requests} == {path for path in served if "test" not in path}
    assert len(find_tasks(["cosmos_qa"], tmp_path)[0].notes) == 1


def test_a_download_that_fails_everywhere_says_so_of_each_copy(server, tmp_path):
    with pytest.raises(UserError) as error:
        find_tasks(["cosmos_qa"], tmp_path)[0].fetch()
    sentence = str(error.value)
    assert sentence.count("allenai/cosmos_qa") >= 2 and "Samsoup/cosmos_qa" in sentence and "tasks.cosmos_qa.source=" in sentence


def test_rows_that_are_not_as_many_as_published_are_refused(tmp_path):
    write_hub_files("rte", tmp_path, 1001, 2)
    with pytest.raises(UserError, match="has 2 rows in its test subset, the published one has 277"):
        find_tasks(["rte"], tmp_path)[0].examples("test")


def test_promptsources_own_templates_can_be_given(tmp_path, monkeypatch):
    unsized(monkeypatch, "rte")
    write_hub_files("rte", tmp_path, 1001, 2)
    file = tmp_path / "templates" / "glue" / "rte" / "templates.yaml"
    file.parent.mkdir(parents=True)
    entry = "{{name: {}, jinja: '{{{{sentence1}}}}? ||| {{{{answer_choices[label]}}}}', answer_choices: 'x ||| y', "
    lines = [
        f"  {number}: !Template {entry.format(name)}metadata: !TemplateMetadata {{original_task: {task}, metrics: [{metric}]}}}}"
        for number, (name, task, metric) in enumerate(
            [("a", "true", "Accuracy"), ("b", "false", "Accuracy"), ("c", "true", "BLEU")]
        )
    ]
    file.write_text("\n".join(["dataset: glue", "templates:", *lines]))
    of_folder = find_tasks(["rte"], tmp_path, prompts=tmp_path / "templates")[0]
    of_file = find_tasks(["rte"], tmp_path, {"rte": {"templates": str(file)}})[0]
    for task in (of_folder, of_file):
        assert [template.name for template in task.wording.templates] == ["a"] and task.notes == []
        assert task.examples("test")[1].input == "sentence1 1?" and task.examples("test")[1].choices == ("x", "y")
    assert of_folder.definition == of_file.definition != find_tasks(["rte"], tmp_path)[0].definition
    with pytest.raises(UserError, match=r"prompts_location=.* has no paws/labeled_final/templates.yaml, for task paws"):
        find_tasks(["paws"], tmp_path, prompts=tmp_path / "templates")


MINE = """
names: [Opinions]
Opinions:
  source: {source}
  templates: ["Review: {{{{text}}}} Good or bad? ||| {{{{answer_choices[good]}}}}", "{{{{text}}}} ||| {{{{answer_choices[good]}}}}"]
  choices: [bad, good]
  columns: {{text: body}}
  validation: 2
"""


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_text_task_of_the_users_own_takes_some_lines(ending, tmp_path):
    rows = [{"body": f'It was "{number}", so.\nWell', "good": number % 2} for number in range(5)]
    folder = tmp_path / "reviews"
    folder.mkdir()
    for subset, part in (("train", rows), ("test", rows[:3])):
        path = folder / f"{subset}.{ending}"
        if ending == "parquet":
            write_parquet(path, part)
        elif ending == "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in part) + "\n")
        else:
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, ["body", "good"])
                writer.writeheader()
                writer.writerows(part)
    config = compose_config([f"data_location={tmp_path}"])
    OmegaConf.set_struct(config, False)
    config.tasks = OmegaConf.create(MINE.format(source=folder))
    [task] = selected_tasks(config)
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [3, 2, 3]
    assert len(task.training_examples()) == 6 and not task.is_generated and task.notes == []
    example = task.examples("val")[1]
    assert (example.input, example.target, example.label) == ('It was "4", so.\nWell', "bad", 0)
    before = task.fingerprint("test")
    os.utime(folder / f"test.{ending}", (1, 1))
    assert selected_tasks(config)[0].fingerprint("test") != before


def test_a_generated_task_of_the_users_own_has_no_choices(tmp_path):
    for subset in ("train", "test"):
        write_parquet(tmp_path / f"{subset}.parquet", [{"q": f"{number}?", "a": "yes"} for number in range(4)])
    options = {"source": str(tmp_path), "templates": ["{{q}} ||| {{a}}"], "validation": 1}
    task = find_tasks(["Own"], tmp_path, {"Own": options})[0]
    assert task.is_generated and task.examples("test")[0].references == ("yes",)
    assert task.metric("Yes.", ("yes",)) == 1


def test_malformed_options_of_text_tasks_are_named_all_at_once(tmp_path):
    options = {
        "rte": {"templates": [], "columns": ["x"], "validation": 0},
        "Mine": {"source": "x", "templates": ["{{a ||| b", "{% include b %} ||| c"], "choices": ["b"]},
        "Yours": {"source": "x", "choices": ["b"]},
        "Theirs": {"source": "x", "templates": ["{{a}} ||| b", "Is {{a}} good?"]},
        "paws": {"templates": str(tmp_path / "none.yaml"), "choices": ["a"], "classes": ["a"]},
    }
    with pytest.raises(UserError) as error:
        find_tasks(list(options), tmp_path, options)
    assert [problem.split(";")[0].split(" (")[0] for problem in error.value.problems] == [
        "tasks.rte.templates is a list, as in tasks.rte.templates=TEMPLATES.yaml",
        "tasks.rte.columns is {NAME IN TEMPLATES: NAME IN FILES}",
        "tasks.rte.validation is a number of rows, at least 1",
        "the template 0 of task Mine cannot be read as Jinja",
        "the template 1 of task Mine has a part that is not read, include in line 1",
        "task Yours needs templates",
        "tasks.Yours.choices goes with a list of templates",
        "a template of task Theirs is `input ||| target`",
        "a task has no option classes",
        "tasks.paws.choices goes with a list of templates",
    ]
    with pytest.raises(UserError, match=r"none.yaml"):
        find_tasks(["paws"], tmp_path, {"paws": {"templates": str(tmp_path / "none.yaml")}})


def test_a_user_names_the_columns_of_files_that_have_others(tmp_path, monkeypatch):
    unsized(monkeypatch, "rte")
    rows = [{"first": "a", "second": "b", "label": 0}] * 1001
    for subset in ("train", "validation"):
        write_parquet(tmp_path / f"mine/{subset}.parquet", rows, 2000)
    source = {"source": str(tmp_path / "mine")}
    with pytest.raises(UserError, match=r"no column sentence1, sentence2, which task rte reads \(it has first, second, label\)"):
        find_tasks(["rte"], tmp_path, {"rte": source})[0].examples("test")
    columns = {"columns": {"sentence1": "first", "sentence2": "second"}}
    assert "Text: a" in find_tasks(["rte"], tmp_path, {"rte": source | columns})[0].examples("test")[0].input


def damaged(path):
    write_parquet(path, [{"q": "x" * 1000, "a": "yes"}] * 50)
    content = bytearray(path.read_bytes())
    content[10:-500] = bytes(len(content) - 510)
    path.write_bytes(content)


HOSTILE = {
    "no parquet": ("parquet", lambda path: path.write_bytes(b"PAR1 of nothing"), "cannot be read"),
    "a damaged page": ("parquet", damaged, "cannot be read"),
    "no rows": (
        "parquet",
        lambda path: pyarrow.parquet.write_table(pyarrow.table({"q": [""][:0], "a": [""][:0]}), path),
        "no rows",
    ),
    "another column": ("parquet", lambda path: write_parquet(path, [{"q": "x"}]), "has no column a"),
    "no JSON": ("jsonl", lambda path: path.write_text('{"q": "x", "a": "y"}\n{"q":'), "line 2 of .* cannot be read as json"),
    "JSON without end": ("jsonl", lambda path: path.write_text("[" * 10**6), "cannot be read as json"),
    "JSON of a list": ("jsonl", lambda path: path.write_text("[1, 2]"), "line 1 of .* is no JSON object"),
    "no text": ("jsonl", lambda path: path.write_bytes(b"\xff\xfe"), "is no text in UTF-8"),
    "an empty file": ("jsonl", lambda path: path.write_text(""), "no rows"),
    "uneven lines": ("csv", lambda path: path.write_text("q,a\nx,y\nz\n"), "cannot be read"),
    "a quote without end": ("csv", lambda path: path.write_text('q,a\n"x,y\n'), "cannot be read"),
    "an empty table": ("csv", lambda path: path.write_text(""), "no rows"),
    "a pipe": ("csv", lambda path: os.mkfifo(path), "no regular file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_table_that_lies_is_a_sentence(case, tmp_path):
    ending, write, problem = HOSTILE[case]
    rows = [{"q": "x", "a": "y"}] * 3
    if ending == "parquet":
        write_parquet(tmp_path / "train.parquet", rows)
    elif ending == "jsonl":
        (tmp_path / "train.jsonl").write_text('{"q": "x", "a": "y"}\n' * 3)
    else:
        (tmp_path / "train.csv").write_text("q,a\nx,y\nx,y\n")
    write(tmp_path / f"test.{ending}")
    options = {"source": str(tmp_path), "templates": ["{{q}} ||| {{a}}"], "validation": 1}
    with pytest.raises(UserError, match=problem) as error:
        examples(find_tasks(["Own"], tmp_path, {"Own": options})[0].examples("test"))
    [sentence] = error.value.problems
    assert len(sentence) < 900


@pytest.mark.parametrize("name", [name for name in tables.FILES if name.startswith("parquet")])
def test_a_parquet_file_that_lies_takes_bounded_memory_and_time(name, tmp_path):
    tables.parquet(tables.good)(tmp_path / "test.parquet")
    tables.FILES[name](tmp_path / "train.parquet")
    options = {"source": str(tmp_path), "templates": ["{{label}} ||| {{image | length}}"], "validation": 1}

    def read() -> str:
        found = find_tasks(["Own"], tmp_path, {"Own": options})[0].examples("train")
        return f"read: {found[0].input}"

    answer = bounded(read)
    assert is_sentence(answer) or (name not in REFUSED and answer.startswith("read")), answer


REFUSED = {f"parquet_{name}" for name in (
    "of_three_hundred_megabytes_of_nothing", "of_a_terabyte_of_nothing", "whose_footer_claims_four_gigabytes",
    "of_millions_of_rows_in_a_few_kilobytes", "cut_short", "without_contents", "of_text", "pipe", "folder", "endless",
)}  # fmt: skip


def test_files_of_two_formats_are_not_mixed(tmp_path):
    write_parquet(tmp_path / "train.parquet", [{"q": "x", "a": "y"}])
    for ending in ("jsonl", "csv"):
        (tmp_path / f"test.{ending}").write_text("")
    options = {"source": str(tmp_path), "templates": ["{{q}} ||| {{a}}"]}
    with pytest.raises(UserError, match=r"has test files in .csv and .jsonl; leave those of one format"):
        find_tasks(["Own"], tmp_path, {"Own": options})[0].examples("test")


def test_training_takes_every_template_of_every_row_as_often(tmp_path, monkeypatch):
    unsized(monkeypatch, "quartz")
    write_hub_files("quartz", tmp_path, 207, 2)
    task = find_tasks(["quartz"], tmp_path)[0]
    keys = [example.key for example in examples(task.training_examples())]
    assert keys == [(row, template) for row in range(7) for template in range(len(task.wording))]
    assert set(Counter(template for _, template in keys).values()) == {7}
