from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from command_line.config import compose_config
from command_line.preflight import selected_tasks
from src.data.class_names import labels_of, match_key, synonyms
from src.data.demo import tasks as demo
from src.data.registry import find_tasks, require_data
from src.data.splits import RANDOM_TENTH
from src.data.vision import tasks as vision
from src.data.vision.task import ImageTask
from src.errors import UserError
from tests.helpers.dataset_files import folders, write_image
from tests.helpers.examples import assert_same, shrink
from tests.helpers.processes import ROOT

TASKS = demo.tasks()
LISTS = {"vision": 20, "lines": 8}


def test_the_validation_split_is_that_of_the_papers():
    train, val = RANDOM_TENTH(60_000)
    assert (len(train), len(val)) == (55_000, 5_000) and train[0] == 36044
    assert len(RANDOM_TENTH(4_000)[1]) == 400 and not set(train) & set(val)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_has_labelled_images_of_all_its_classes(task):
    labels = [label for _, label in (task.examples("test")[i] for i in range(1000))]
    assert len(task.examples("test")) == 1000 and set(labels) == set(range(len(task.classes)))
    image, _ = task.examples("test")[0]
    assert image.size == (32, 32) and image.mode == "RGB"
    assert len(task.templates) == 3 and all(template.count("{}") == 1 for template in task.templates)


def test_a_task_has_three_splits():
    arrows = TASKS["Arrows"]
    assert [len(arrows.examples(split)) for split in ("train", "val", "test")] == [3600, 400, 1000]
    with pytest.raises(ValueError, match="train, val, test"):
        arrows.examples("valid")


@pytest.mark.parametrize("task", demo.DRAWN_TASKS, ids=lambda task: task.name)
def test_drawing_is_repeatable_and_the_subsets_differ(task):
    first, again, test = task.images("train", 64), task.images("train", 64), task.images("test", 64)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], test[0])
    assert first[0].dtype == torch.uint8 and first[0].float().std() > 10


def test_unknown_and_repeated_tasks_are_named_with_what_there_is():
    with pytest.raises(UserError) as error:
        find_tasks(["Shapes", "MINST", "Shapes"])
    assert error.value.problems[0].startswith("there is no task MINST; did you mean MNIST?")
    assert error.value.problems[1] == "task Shapes is named 2 times; name it once"
    with pytest.raises(UserError, match=r"there is no task zzzz; choose among Shapes, .*, ImageNet.* \(tasks.zzzz.source=FOLDER"):
        find_tasks(["zzzz"])


def test_the_shipped_model_is_small():
    assert (ROOT / "demo" / "ViT-demo.safetensors").stat().st_size < 8 * 2**20


def test_what_is_drawn_has_a_fingerprint_that_follows_the_code_and_the_split(monkeypatch):
    prints = {split: TASKS["Shapes"].fingerprint(split) for split in ("train", "val", "test")}
    assert len(set(prints.values())) == 3 and prints["val"] != TASKS["Digits"].fingerprint("val")
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert TASKS["Shapes"].fingerprint("val") != prints["val"]


@pytest.mark.parametrize("spec", vision.SPECS.values(), ids=list(vision.SPECS))
def test_a_dataset_has_prompts_and_classes_that_can_be_told_apart(spec):
    assert spec.templates and all(template.count("{}") == 1 for template in spec.templates)
    assert len(spec.classes) == spec.class_count and set(spec.aliases) <= {synonyms(name)[0] for name in spec.classes}
    if spec.name != "ImageNet":  # open_clip's list calls two pairs of classes the same
        variants = [(*synonyms(name), *spec.aliases.get(synonyms(name)[0], ())) for name in spec.classes]
        keys = [set(map(match_key, names)) for names in variants]
        assert len(set.union(*keys)) == sum(map(len, keys))


@pytest.mark.parametrize("name", vision.SPECS)
def test_missing_data_is_a_sentence_with_its_folder_and_what_helps(name, tmp_path):
    task = find_tasks([name], tmp_path)[0]
    [sentence] = task.problems()
    assert name in sentence and str(tmp_path) in sentence and f"tasks.{name}.source=" in sentence
    assert ("download=true" in sentence) == task.is_fetchable == (name != "ImageNet")
    for read in (lambda: task.examples("test"), lambda: task.fingerprint("val")):
        with pytest.raises(UserError, match="is not there"):
            read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LISTS)
def test_the_lists_of_tasks_name_datasets_with_epochs(name):
    tasks = compose_config([f"tasks={name}"]).tasks
    assert len(tasks.names) == LISTS[name] and set(tasks.names) <= set(vision.SPECS)
    assert all(tasks[task].epochs > 0 and tasks[task].source is None for task in tasks.names)
    assert tasks.names[0] == {"vision": "Cars", "lines": "EuroSAT"}[name]


def test_selecting_touches_no_data_and_takes_sources_from_the_command_line(tmp_path):
    overrides = ["tasks=vision", "tasks.SUN397.source=/no/where", f"data_location={tmp_path}", "DATASETS=[SUN397,ImageNet]"]
    sun, imagenet = selected_tasks(compose_config(overrides))
    assert "/no/where" in sun.problems()[0] and not sun.is_fetchable
    assert str(tmp_path) in imagenet.problems()[0]
    assert compose_config([]).download is True


def test_a_task_of_the_users_own_takes_four_lines(tmp_path):
    subsets = {subset: subset for subset in ("train", "val", "test")}
    expected = folders(tmp_path / "birds", ["black_footed_albatross", "wren"], subsets)
    (tmp_path / "birds" / "train" / ".ipynb_checkpoints").mkdir()
    config = compose_config([f"data_location={tmp_path}"])
    OmegaConf.set_struct(config, False)
    config.tasks = OmegaConf.create(
        f"""
        names: [Birds]
        Birds:
          source: {tmp_path / "birds"}
          templates: ["a photo of a {{}}, a type of bird."]
        """
    )
    [task] = selected_tasks(config)
    assert list(task.classes) == ["black footed albatross", "wren"] and len(task.templates) == 1
    for subset in subsets:
        assert_same(task.examples(subset), expected[subset])
    before = task.fingerprint("val")
    write_image(tmp_path / "birds/val/wren/more.png", 5)
    [again] = selected_tasks(config)
    assert again.fingerprint("val") != before and again.notes == []


def test_classes_can_be_given_in_another_order_or_with_other_words_but_not_confused(tmp_path):
    expected = folders(tmp_path, ["cat", "dog", "owl"], {"train": "train", "test": "val"})

    def task(*classes):
        options = {"source": str(tmp_path), "templates": ["a {}."], "classes": list(classes)}
        return find_tasks(["Mine"], tmp_path / "data", {"Mine": options})[0]

    assert_same(task("kitten", "puppy", ["owl", "owlet"]).examples("test"), expected["test"])
    assert task("kitten", "puppy", ["owl", "owlet"]).classes == ("kitten", "puppy", ("owl", "owlet"))
    order = {0: 1, 1: 2, 2: 0}
    assert_same(task("Owl", "Cat", "Dog").examples("test"), [(grey, order[label]) for grey, label in expected["test"]])
    for classes, problem in (
        (("a dog", "cat", "owl"), "class cat is number 0"),
        (("cat", "dog"), "3 classes, and classes= names 2"),
    ):
        with pytest.raises(UserError, match=problem):
            task(*classes).examples("test")
    with pytest.raises(UserError, match="6 training examples, too few to hold some out"):
        task("cat", "dog", "owl").examples("val")


def test_malformed_options_are_named_all_at_once(tmp_path):
    options = {
        "Mine": {"source": "x", "templates": ["no place for a name"]},
        "Yours": {"source": "x"},
        "Shapes": {"source": "x"},
        "MNIST": {"templates": "a {}.", "classes": [], "columns": {"picture": "x"}, "epochs": "three"},
    }
    with pytest.raises(UserError) as error:
        find_tasks(list(options), tmp_path, options)
    assert [problem.split(";")[0] for problem in error.value.problems] == [
        "a prompt of task Mine has one {} for the class",
        """task Yours needs prompts, as in "tasks.Yours.templates=['a photo of a {}.']\"""",
        "task Shapes is drawn and takes no source",
        "tasks.MNIST.epochs is a positive whole number, or null",
        """tasks.MNIST.templates is a list, as in "tasks.MNIST.templates=['a photo of a {}.']\"""",
        "tasks.MNIST.classes is a list, as in 'tasks.MNIST.classes=[cat,dog]'",
        "tasks.MNIST.columns names the columns as {image: NAME, label: NAME}",
    ]


def test_prompts_can_be_replaced(tmp_path):
    options = {name: {"templates": ["{}!"]} for name in ("Shapes", "MNIST")}
    shapes, mnist = find_tasks(list(options), tmp_path, options)
    assert shapes.templates == mnist.templates == ("{}!",)
    assert list(shapes.classes) == list(TASKS["Shapes"].classes) and list(mnist.classes) == list("0123456789")


class Absent(SimpleNamespace):
    """A source whose data is missing until it is fetched, if that helps.

    failure: why fetching fails, if it does.
    log: the names of those that were fetched.
    """

    subsets = ("train", "test")

    def problems(self, was_fetched=False):
        return [] if self.is_there else [f"{self.name} is missing"]

    def fetch(self, progress):
        self.log.append(self.name)
        if self.failure:
            raise UserError(self.failure)
        self.is_there = True


def absent(log, **outcomes):
    """Return tasks whose data is missing.

    outcomes: by name, whether they can be fetched, or why that fails.
    """
    failures = {name: value if isinstance(value, str) else None for name, value in outcomes.items()}
    return [
        ImageTask(name, Absent(name=name, is_there=False, is_fetchable=bool(value), failure=failures[name], log=log), ())
        for name, value in outcomes.items()
    ]


def test_all_that_is_missing_is_said_at_once_before_anything_is_fetched():
    log = []
    tasks = [TASKS["Shapes"], *absent(log, a=True, b=False, c=False)]
    for download, sentences in (
        (False, ["a is missing", "b is missing", "c is missing"]),
        (True, ["b is missing", "c is missing"]),
    ):
        with pytest.raises(UserError) as error:
            require_data(tasks, download)
        assert error.value.problems == sentences and log == []
    require_data(tasks[:2], download=True)
    require_data(tasks[:2], download=False)
    assert log == ["a"]


def test_a_download_that_fails_does_not_keep_the_others_from_being_fetched():
    log = []
    with pytest.raises(UserError) as error:
        require_data(absent(log, a="the line is dead", b=True, c="so is this"), download=True)
    assert error.value.problems == ["the line is dead", "so is this"] and log == ["a", "b", "c"]


def test_numbers_name_labels_and_names_are_compared_by_their_letters():
    assert labels_of(["Sea_Lake", "annual crop"], [("annual crop land", "AnnualCrop"), ("lake or sea", "SeaLake")]) == [1, 0]
    assert labels_of(["0", "1", "10", *"23456789"], [(f"class {n}",) for n in range(11)]) == [0, 1, 10, *range(2, 10)]
    assert labels_of(["a", "b"], [("a",), ("c",)]) is None and labels_of(["a", "a"], [("a",), ("b",)]) is None


def test_a_wrong_number_of_classes_or_examples_names_both(tmp_path, monkeypatch):
    expected = folders(tmp_path / "dtd", ["banded", "dotted"], {"train": "train", "test": "val"})
    with pytest.raises(UserError, match="2 classes and DTD was published with 47"):
        find_tasks(["DTD"], tmp_path)[0].examples("train")
    shrink(monkeypatch, "DTD", {**expected, "train": expected["train"] * 2}, ["banded", "dotted"])
    with pytest.raises(UserError, match="4 examples in its train subset, the published one has 8"):
        find_tasks(["DTD"], tmp_path)[0].examples("val")


@pytest.mark.parametrize("group", ["demo", "vision", "lines"])
@pytest.mark.parametrize("name", ["Birds", "MNIST", "SUN397"])
def test_every_override_that_a_sentence_suggests_can_be_typed(group, name, tmp_path):
    """As written in messages: without a `+`, whichever list of tasks is chosen."""
    overrides = [f"tasks={group}", f"DATASETS=[{name}]", f"data_location={tmp_path}"]
    classes = vision.SPECS[name].classes if name in vision.SPECS else ["wren", "tit"]
    options = ["source=/no/where", 'templates=["a photo of a {}."]', "patterns=[data/*]", "columns={label: species}"]
    options += [f"classes={list(classes)}".replace("'", '"')]
    config = compose_config([*overrides, *(f"tasks.{name}.{option}" for option in options)])
    [task] = selected_tasks(config)
    assert task.name == name and list(task.templates) == ["a photo of a {}."] and "/no/where" in task.problems()[0]


def test_misspelled_tasks_and_options_are_named(tmp_path):
    with pytest.raises(UserError, match=r"tasks.MNSIT.source: there is no task MNSIT in this run; did you mean MNIST\?"):
        selected_tasks(compose_config(["DATASETS=[MNIST]", "tasks.MNSIT.source=x"]))
    with pytest.raises(UserError, match=r"no option souce \(tasks.MNIST.souce=\); did you mean source\?"):
        selected_tasks(compose_config(["DATASETS=[MNIST]", "tasks.MNIST.souce=x"]))
    with pytest.raises(UserError) as error:  # which needs no prompts: there is no such task
        selected_tasks(compose_config(["DATASETS=[MNSIT]", "tasks.MNSIT.epochs=3"]))
    assert len(error.value.problems) == 1 and error.value.problems[0].startswith("there is no task MNSIT; did you mean MNIST?")
    with pytest.raises(UserError, match=r"task MNSIT needs prompts, .* or did you mean MNIST, which has prompts\?"):
        selected_tasks(compose_config(["DATASETS=[MNSIT]", "tasks.MNSIT.source=x"]))


def test_the_remedy_of_missing_data_is_one_command(tmp_path):
    [sentence] = find_tasks(["SUN397"], tmp_path)[0].problems()
    option = sentence.split("give ")[1].split("=FOLDER")[0]
    folders(tmp_path / "mine", ["abbey"], {"train": "train", "test": "test"})
    overrides = ["DATASETS=[SUN397]", f"{option}={tmp_path / 'mine'}", f"data_location={tmp_path}"]
    [task] = selected_tasks(compose_config(overrides))
    assert task.problems() == []
