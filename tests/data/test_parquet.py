"""Datasets as the Hub serves them: downloads, copies of the user's own, and users' own datasets."""

import io
import pickle
from functools import partial

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from src.data.class_names import synonyms
from src.data.readers import row_groups
from src.data.registry import find_tasks, require_data
from src.data.vision import tasks as vision
from src.data.vision.labels import named
from src.downloads.hub import fetch
from src.errors import UserError
from src.runtime.progress import SILENT
from tests.helpers.dataset_files import PARTS
from tests.helpers.examples import same, shrunk
from tests.helpers.hub_server import Hub, serving
from tests.helpers.progress import RecordedProgress

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(root, subsets=None, names=("airplane", "sea ice"), image="image", label="label", raw=False, **more):
    """Parquet files with the description of columns that the Hub's datasets library writes; `parts` by file name."""
    for file, examples in (subsets or {f"data/{subset}-00000-of-00001": PARTS[subset] for subset in PARTS}).items():
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
        def fetched(repository, kind, patterns, folder, revision=None, progress=SILENT):
            assert kind == "dataset"
            asked.append((repository, revision))
            serve(folder, **served)
            return COMMIT

        monkeypatch.setattr("src.data.vision.hub_copy.fetch_files", fetched)
        return asked

    return start


@pytest.fixture
def server(monkeypatch):
    """A Hub on this machine that the real client asks."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Hub()) as running:
        monkeypatch.setattr("src.data.vision.hub_copy.fetch_files", partial(fetch, endpoint=running.address))
        yield running


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_a_mirror_is_fetched_from_a_hub_resumed_pinned_and_read(server, tmp_path, monkeypatch):
    serve(tmp_path / "made")
    served = files(tmp_path / "made")
    commit = server.add("tanganke/resisc45", {**served, "data/contrast-0.parquet": b"other images"}, "datasets")
    shrunk(monkeypatch, "RESISC45", PARTS, ["airplane", "sea ice"])
    task = find_tasks(["RESISC45"], tmp_path)[0]
    assert task.fetchable and "download=true" in task.problems()[0]
    last = max(served)
    server.failing[last] = [500] * 99
    with pytest.raises(UserError, match="RESISC45 was not downloaded"):
        task.fetch()
    assert last in find_tasks(["RESISC45"], tmp_path)[0].problems()[0]  # half a download does not count
    server.failing.clear()
    server.add("tanganke/resisc45", {}, "datasets")  # main moves on
    progress, what = RecordedProgress(), f"RESISC45 from tanganke/resisc45: {last}"
    require_data([task], True, progress)
    assert progress.planned == [len(served[last])] and progress.reports == [(what, 0), (what, len(served[last]))]
    same(task.examples("test"), PARTS["test"])
    folder = tmp_path / "hub" / "tanganke--resisc45"
    assert files(folder) == served and commit in (folder / ".fetched.json").read_text()
    victim = folder / last
    victim.write_bytes(victim.read_bytes()[:-1])
    assert last in find_tasks(["RESISC45"], tmp_path)[0].problems(fetched=True)[0]
    assert "download=true" not in find_tasks(["RESISC45"], tmp_path)[0].problems(fetched=True)[0]


def test_tasks_on_one_repository_with_different_patterns_are_complete_each_by_its_own(server, tmp_path):
    for name in ("a", "b"):
        serve(tmp_path / "made", {f"{name}/{subset}-0": PARTS[subset] for subset in PARTS}, names=("x", "y"))
    server.add("some/body", files(tmp_path / "made"), "datasets")
    options = {name: {"source": "some/body", "templates": ["a {}."], "patterns": [f"{name}/*"]} for name in ("a", "b")}
    one, two = find_tasks(["a", "b"], tmp_path, options)
    one.fetch()
    assert one.problems() == [] and two.problems()
    server.failing["b/train-0.parquet"] = [500] * 99
    with pytest.raises(UserError):
        two.fetch()
    assert find_tasks(["a", "b"], tmp_path, options)[1].problems()


def test_files_put_there_by_hand_need_no_record(tmp_path, monkeypatch):
    serve(tmp_path / "hub" / "tanganke--resisc45")
    shrunk(monkeypatch, "RESISC45", PARTS, ["airplane", "sea ice"])
    same(find_tasks(["RESISC45"], tmp_path)[0].examples("test"), PARTS["test"])


def test_copies_are_put_into_the_papers_order_where_they_kept_the_names_of_files(tmp_path, monkeypatch):
    made = {"train": [(10, 1), (20, 0), (30, 1), (40, 0)], "test": [(50, 1), (60, 0)]}
    called = {10: "b_2.jpg", 20: "a_9.jpg", 30: "b_1.jpg", 40: "a_1.jpg", 50: "b.jpg", 60: "a.jpg"}
    for subset, examples in made.items():
        columns = {"image": [{"bytes": encoded(grey), "path": called[grey]} for grey, _ in examples],
                   "label": [("banded", "dotted")[label] for _, label in examples]}  # fmt: skip
        (tmp_path / "dtd").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "dtd" / f"{subset}.parquet", row_group_size=2)
    shrunk(monkeypatch, "DTD", made, ["banded", "dotted"])
    task = find_tasks(["DTD"], tmp_path / "data", {"DTD": {"source": str(tmp_path / "dtd")}})[0]
    same(task.source.load("train"), [(40, 0), (20, 0), (30, 1), (10, 1)])
    assert task.notes == []
    shrunk(monkeypatch, "FER2013", made, [("angry",), ("disgusted",)])
    serve(tmp_path / "faces", made, names=("angry", "disgust"))
    faces = find_tasks(["FER2013"], tmp_path / "data", {"FER2013": {"source": str(tmp_path / "faces")}})[0]
    same(faces.source.load("train"), made["train"])
    assert "order of" in faces.notes[0] and "may not be the papers'" in faces.notes[0]


def encoded(grey):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(held, "PNG")
    return held.getvalue()


def test_an_image_and_classes_that_cannot_be_read_are_named(tmp_path):
    own = {"Mine": {"source": str(tmp_path), "templates": ["a {}."]}}
    for subset, content in (("train", encoded(1)), ("test", encoded(1)[:40])):
        table = pyarrow.table({"image": [encoded(1), content], "label": ["cat", "dog"]})
        pyarrow.parquet.write_table(table, tmp_path / f"{subset}.parquet", row_group_size=1)
    with pytest.raises(UserError, match=r"test.parquet, number 0 of row group 1 cannot be read .*get it anew"):
        _ = find_tasks(["Mine"], tmp_path / "data", own)[0].examples("test")[1]
    pyarrow.parquet.write_table(pyarrow.table({"image": [encoded(1)], "label": ["owl"]}), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"classes that the training part has not \(owl\)"):
        find_tasks(["Mine"], tmp_path / "data", own)[0].examples("test")


def test_row_groups_are_let_go_when_they_grow_too_many_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "MOST", 500)
    monkeypatch.setattr(row_groups, "row_group_cache", row_groups.ProcessLocal(row_groups.RowGroupCache))
    examples = [(n, n % 2) for n in range(40)]
    table = pyarrow.table(
        {"image": [encoded(grey) for grey, _ in examples], "label": [("a", "b")[label] for _, label in examples]}
    )
    for subset in PARTS:
        (tmp_path / "mine").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / "mine" / f"{subset}.parquet", row_group_size=3)
    task = find_tasks(["Mine"], tmp_path / "data", {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    same(task.examples("test"), examples)
    same(pickle.loads(pickle.dumps(task.examples("test"))), examples)
    held = row_groups.row_group_cache()
    assert 0 < held._size <= 500 and held._size == sum(group.nbytes for group in held._held.values())
    assert not (tmp_path / "data").exists()


# the classes of each mirror as its card has them, where they are not those of the row
CARDS = {
    "KMNIST": list("おきすつなはまやれを"),
    "CIFAR100": ["cra" if name == "crab" else name for name in vision.ROWS["CIFAR100"].classes],
    "OxfordIIITPet": [name.lower().replace(" ", "_") for name in vision.ROWS["OxfordIIITPet"].classes],
    "Food101": [name.replace("_", " ") for name in reversed(vision.ROWS["Food101"].classes)],
    "PCAM": ["0", "1"],
    "SVHN": list("0123456789"),
    "MNIST": list("0123456789"),
    "FER2013": ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"],
    "FashionMNIST": ["T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "RenderedSST2": ["negative", "positive"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, row in vision.ROWS.items() if row.hub_copy])
def test_the_classes_of_every_mirror_are_known_by_name(name):
    row = vision.ROWS[name]
    found = CARDS.get(name, [synonyms(each)[0] for each in row.classes])
    names, labels = named(row, found, None, "there")
    said = [found[(labels or list(range(len(found)))).index(number)] for number in range(len(found))]
    assert names == row.classes and sorted(labels or range(len(found))) == list(range(row.count))
    if name == "FER2013":
        assert said == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    elif name == "Food101":
        assert labels == list(range(100, -1, -1))
    else:
        assert labels is None


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


def test_every_revision_that_a_user_names_has_a_folder_of_its_own(hub, tmp_path, monkeypatch):
    hub(names=("bengal", "abyssinian"))
    shrunk(monkeypatch, "OxfordIIITPet", PARTS, ["Abyssinian", "Bengal"])
    pets = find_tasks(["OxfordIIITPet"], tmp_path, {"OxfordIIITPet": {"source": "somebody/pets@main"}})[0]
    pets.fetch()
    same(pets.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])
    assert (tmp_path / "hub" / "somebody--pets@main").is_dir()


def test_columns_of_bytes_and_folders_of_parts(hub, tmp_path, monkeypatch):
    subsets = {f"default/{subset}/0000": PARTS[subset] for subset in PARTS}
    asked = hub(subsets=subsets, names=("angry", "disgust"), image="img_bytes", label="labels", raw=True)
    shrunk(monkeypatch, "FER2013", PARTS, [("angry",), ("disgusted",)])
    task = find_tasks(["FER2013"], tmp_path)[0]
    task.fetch()
    assert asked == [("Jeneral/fer-2013", "refs/convert/parquet")]
    same(task.examples("test"), PARTS["test"])
    assert task.examples("test")[0][0].mode == "L"


def test_a_mirror_without_validation_images_leaves_that_to_the_rule(hub, tmp_path, monkeypatch):
    examples = [(n, n % 2) for n in range(20)]
    hub(subsets={"data/train-0": examples, "data/test-0": examples[:3]}, names=("annual crop land", "Forest"))
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
    same(task.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])
    assert list(task.classes) == ["aquarium_fish", "ray"]


def test_what_is_wrong_with_parquet_files_is_said(tmp_path, monkeypatch):
    own = {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}}

    def task():
        return find_tasks(["Mine"], tmp_path, own)[0]

    serve(tmp_path / "mine", names=None)
    with pytest.raises(UserError, match=r"does not name its classes; give 'tasks.Mine.classes="):
        _ = task().classes
    own["Mine"]["classes"] = ["only"]
    with pytest.raises(UserError, match="label 1, but 1 classes"):
        task().examples("test")
    own["Mine"]["classes"] = ["one", "two"]
    same(task().examples("test"), PARTS["test"])
    serve(tmp_path / "mine", subsets={"data/test-00000-of-00001": [(10, -1)]}, names=None)
    with pytest.raises(UserError, match="without a label"):
        task().examples("test")
    serve(tmp_path / "mine", subsets={"more/train-00000-of-00001": [(10, 0)]}, names=None)
    assert "one folder of train files (it has data, more" in task().problems()[0]
    own["Mine"]["patterns"] = ["data/*"]
    assert task().problems() == []
    serve(tmp_path / "mine", subsets={"data/train-00000-of-00001": [(10, 0)]}, names=None, image="words", raw=False)
    assert task().fingerprint("train") != task().fingerprint("test")


def test_columns_that_are_not_clear_have_to_be_named(tmp_path):
    own = {"Pets": {"source": str(tmp_path / "pets"), "templates": ["a {}."]}}
    serve(tmp_path / "pets", names=("cat", "dog"), label="species", breed=datasets.ClassLabel(names=["tabby"]))
    with pytest.raises(
        UserError, match=r"is the label is not clear \(it has image, species, breed\); say 'tasks.Pets.columns=\{label: NAME\}'"
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
    for subset, examples in (("train", PARTS["train"]), ("validation", PARTS["test"])):
        pictures = [Image.new("RGB", (8, 8), (grey,) * 3) for grey, _ in examples]
        columns = {"image": pictures, "label": [("wren", "tit")[label] for _, label in examples]}
        path = tmp_path / "mine" / f"{subset}.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(str(path))
    task = find_tasks(["Birds"], tmp_path, {"Birds": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    assert list(task.classes) == ["tit", "wren"]
    same(task.examples("test"), [(grey, 1 - label) for grey, label in PARTS["test"]])


def test_files_that_describe_nothing_are_read_by_the_form_of_their_columns(tmp_path, monkeypatch):
    for subset, examples in PARTS.items():
        files = [io.BytesIO() for _ in examples]
        for file, (grey, _) in zip(files, examples):
            Image.new("RGB", (8, 8), (grey,) * 3).save(file, "PNG")
        columns = {
            "image": [{"bytes": file.getvalue(), "path": None} for file in files],
            "label": [label for _, label in examples],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{subset}.parquet")
    shrunk(monkeypatch, "SVHN", PARTS)
    task = find_tasks(["SVHN"], tmp_path / "data", {"SVHN": {"source": str(tmp_path)}})[0]
    same(task.examples("test"), PARTS["test"])


def test_rows_name_mirrors_in_a_form_the_hub_takes():
    for row in vision.ROWS.values():
        if row.hub_copy:
            assert row.hub_copy.repository.count("/") == 1
            assert row.hub_copy.revision is None or "/" in row.hub_copy.revision or len(row.hub_copy.revision) == 40
