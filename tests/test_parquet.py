"""Datasets as the Hub serves them: downloads, copies of the user's own, and users' own datasets."""

import io

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from src.data import vision
from src.data.catalogue import find_tasks
from src.errors import UserError
from tests.dataset_files import PARTS
from tests.reading import same, shrunk

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(root, parts=None, names=("airplane", "sea ice"), image="image", label="label", raw=False, **more):
    """Parquet files with the description of columns that the Hub's datasets library writes; `parts` by file name."""
    for file, examples in (parts or {f"data/{part}-00000-of-00001": PARTS[part] for part in PARTS}).items():
        pictures = [Image.new("L" if raw else "RGB", (8, 8), grey if raw else (grey,) * 3) for grey, _ in examples]
        columns = {image: pictures, label: [each for _, each in examples], **{key: [0] * len(examples) for key in more}}
        kinds = {
            image: datasets.Image(),
            label: datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64"),
            **more,
        }
        if raw:
            files = [io.BytesIO() for _ in pictures]
            for picture, held in zip(pictures, files):
                picture.save(held, "PNG")
            columns[image], kinds[image] = [held.getvalue() for held in files], datasets.Value("binary")
        path = root / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, datasets.Features(kinds)).to_parquet(str(path))


@pytest.fixture
def hub(monkeypatch):
    """A Hub that serves what `serve` is told; it notes the revisions it was asked for."""
    asked = []

    def start(**served):
        def fetch(repository, kind, patterns, folder, revision=None):
            assert kind == "dataset"
            asked.append((repository, revision))
            serve(folder, **served)
            return COMMIT

        monkeypatch.setattr("src.data.mirror.fetch_files", fetch)
        return asked

    return start


def test_a_mirror_is_fetched_once_and_pinned(hub, tmp_path, monkeypatch):
    asked = hub(brightness=datasets.Value("int64"))
    shrunk(monkeypatch, "RESISC45", PARTS, ["airplane", "sea ice"])
    task = find_tasks(["RESISC45"], tmp_path)[0]
    assert task.fetchable and "RESISC45" in task.problems()[0]
    task.fetch()
    assert task.problems() == []
    same(task.examples("test"), PARTS["test"])
    same(task.origin.part("train"), PARTS["train"])
    assert COMMIT in (tmp_path / "hub" / "tanganke--resisc45.json").read_text()
    task.fetch()
    assert asked == [("tanganke/resisc45", None), ("tanganke/resisc45", COMMIT)]


def test_a_download_that_was_killed_does_not_count(tmp_path):
    serve(tmp_path / "hub" / "tanganke--resisc45")
    assert "complete download" in find_tasks(["RESISC45"], tmp_path)[0].problems()[0]


def test_a_mirrors_classes_may_be_in_another_order_but_no_others(hub, tmp_path, monkeypatch):
    hub(names=("Sea_Ice", "AIRPLANE"))
    shrunk(monkeypatch, "RESISC45", PARTS, ["airplane", "sea ice"])
    task = find_tasks(["RESISC45"], tmp_path)[0]
    task.fetch()
    assert list(task.classes) == ["airplane", "sea ice"]
    same(task.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])
    hub(names=("sea lion", "airplane"))
    other = find_tasks(["RESISC45"], tmp_path / "other")[0]
    other.fetch()
    with pytest.raises(UserError, match="sea lion unknown; sea ice not there"):
        other.examples("test")


def test_names_that_come_with_the_data_are_sorted_as_folders_are_and_spoken(hub, tmp_path, monkeypatch):
    hub(names=("polka dotted", "banded"))
    shrunk(monkeypatch, "DTD", PARTS, ["banded", "polka dotted"])
    task = find_tasks(["DTD"], tmp_path)[0]
    task.fetch()
    assert list(task.classes) == ["banded", "polka dotted"]
    same(task.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])
    hub(names=("american_bulldog", "abyssinian"))
    shrunk(monkeypatch, "OxfordIIITPet", PARTS, ["a", "b"])
    pets = find_tasks(["OxfordIIITPet"], tmp_path, {"OxfordIIITPet": {"source": "somebody/pets@main"}})[0]
    pets.fetch()
    assert list(pets.classes) == ["Abyssinian", "American Bulldog"]
    assert (tmp_path / "hub" / "somebody--pets@main").is_dir()


def test_columns_of_bytes_and_folders_of_parts(hub, tmp_path, monkeypatch):
    parts = {f"default/{part}/0000": PARTS[part] for part in PARTS}
    asked = hub(parts=parts, names=("angry", "disgust"), image="img_bytes", label="labels", raw=True)
    shrunk(monkeypatch, "FER2013", PARTS, [("angry",), ("disgusted",)])
    task = find_tasks(["FER2013"], tmp_path)[0]
    task.fetch()
    assert asked == [("Jeneral/fer-2013", "refs/convert/parquet")]
    same(task.examples("test"), PARTS["test"])
    assert task.examples("test")[0][0].mode == "L"


def test_a_mirror_without_validation_images_leaves_that_to_the_rule(hub, tmp_path, monkeypatch):
    examples = [(n, n % 2) for n in range(20)]
    hub(parts={"data/train-0": examples, "data/test-0": examples[:3]}, names=("annual crop land", "Forest"))
    shrunk(monkeypatch, "EuroSAT", {"train": examples, "val": examples[:2], "test": examples[:3]}, ["annual crop land", "forest"])
    task = find_tasks(["EuroSAT"], tmp_path)[0]
    task.fetch()
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [18, 2, 3]


def test_labels_and_pictures_of_other_columns_are_left_alone(tmp_path, monkeypatch):
    serve(
        tmp_path / "mine",
        names=("ray", "aquarium_fish"),
        image="img",
        label="fine_label",
        coarse_label=datasets.ClassLabel(names=["fish"]),
    )
    shrunk(monkeypatch, "CIFAR100", PARTS, ["aquarium_fish", "ray"])
    task = find_tasks(["CIFAR100"], tmp_path, {"CIFAR100": {"source": str(tmp_path / "mine")}})[0]
    same(task.examples("test"), PARTS["test"])
    assert list(task.classes) == ["ray", "aquarium_fish"]


def test_what_is_wrong_with_parquet_files_is_said(tmp_path, monkeypatch):
    own = {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}}

    def task():
        return find_tasks(["Mine"], tmp_path, own)[0]

    serve(tmp_path / "mine", names=None)
    with pytest.raises(UserError, match=r"does not name its classes; give tasks.Mine.classes"):
        _ = task().classes
    own["Mine"]["classes"] = ["only"]
    with pytest.raises(UserError, match="label 1, but 1 classes"):
        task().examples("test")
    own["Mine"]["classes"] = ["one", "two"]
    same(task().examples("test"), PARTS["test"])
    serve(tmp_path / "mine", parts={"data/test-00000-of-00001": [(10, -1)]}, names=None)
    with pytest.raises(UserError, match="without a label"):
        task().examples("test")
    serve(tmp_path / "mine", parts={"more/train-00000-of-00001": [(10, 0)]}, names=None)
    assert "one folder of train files (it has data, more" in task().problems()[0]
    own["Mine"]["patterns"] = ["data/*"]
    assert task().problems() == []
    serve(tmp_path / "mine", parts={"data/train-00000-of-00001": [(10, 0)]}, names=None, image="words", raw=False)
    assert task().fingerprint("train") != task().fingerprint("test")


def test_columns_that_are_not_clear_have_to_be_named(tmp_path):
    own = {"Pets": {"source": str(tmp_path / "pets"), "templates": ["a {}."]}}
    serve(tmp_path / "pets", names=("cat", "dog"), label="species", breed=datasets.ClassLabel(names=["tabby"]))
    with pytest.raises(
        UserError, match=r"is the label is not clear \(it has image, species, breed\); say columns=\{label: NAME\}"
    ):
        _ = find_tasks(["Pets"], tmp_path, own)[0].classes
    first = find_tasks(["Pets"], tmp_path, own)[0].fingerprint("test")
    own["Pets"]["columns"] = {"label": "species"}
    task = find_tasks(["Pets"], tmp_path, own)[0]
    same(task.examples("test"), PARTS["test"])
    assert task.fingerprint("test") != first


def test_a_changed_file_is_read_anew(tmp_path):
    own = {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}}
    serve(tmp_path / "mine", names=("b", "a"))
    same(find_tasks(["Mine"], tmp_path, own)[0].examples("test"), PARTS["test"])
    serve(tmp_path / "mine", {"data/train-00000-of-00001": [(1, 0)], "data/test-00000-of-00001": [(200, 0)]}, names=("b", "a"))
    task = find_tasks(["Mine"], tmp_path, own)[0]
    same(task.examples("test"), [(200, 0)])
    assert list(task.classes) == ["b", "a"]


def test_labels_may_be_words_and_a_validation_part_may_be_the_test_part(tmp_path):
    for part, examples in (("train", PARTS["train"]), ("validation", PARTS["test"])):
        pictures = [Image.new("RGB", (8, 8), (grey,) * 3) for grey, _ in examples]
        columns = {"image": pictures, "label": [("wren", "tit")[label] for _, label in examples]}
        path = tmp_path / "mine" / f"{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(str(path))
    task = find_tasks(["Birds"], tmp_path, {"Birds": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    assert list(task.classes) == ["tit", "wren"]
    same(task.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])


def test_files_that_describe_nothing_are_read_by_the_form_of_their_columns(tmp_path, monkeypatch):
    for part, examples in PARTS.items():
        files = [io.BytesIO() for _ in examples]
        for file, (grey, _) in zip(files, examples):
            Image.new("RGB", (8, 8), (grey,) * 3).save(file, "PNG")
        columns = {
            "image": [{"bytes": file.getvalue(), "path": None} for file in files],
            "label": [label for _, label in examples],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{part}.parquet")
    shrunk(monkeypatch, "SVHN", PARTS)
    task = find_tasks(["SVHN"], tmp_path / "data", {"SVHN": {"source": str(tmp_path)}})[0]
    same(task.examples("test"), PARTS["test"])


def test_rows_name_mirrors_in_a_form_the_hub_takes():
    for row in vision.ROWS.values():
        if row.mirror:
            assert row.mirror.repository.count("/") == 1
            assert row.mirror.revision is None or "/" in row.mirror.revision or len(row.mirror.revision) == 40
