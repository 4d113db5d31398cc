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
from src.data.vision.labels import map_classes
from src.downloads.hub import fetch
from src.errors import UserError
from src.runtime.progress import SILENT
from tests.helpers.dataset_files import SUBSETS
from tests.helpers.examples import assert_same, shrink
from tests.helpers.hub_server import Hub, serving
from tests.helpers.progress import RecordedProgress

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(root, subsets=None, names=("airplane", "sea ice"), image="image", label="label", raw=False, **more):
    """Write parquet files with the description of columns that the Hub's datasets library writes.

    subsets: the (grey, label) of examples by file name.
    names: the classes'; None to describe labels as numbers.
    raw: whether images are bytes without a description.
    more: further columns, by name.
    """
    for file, examples in (subsets or {f"data/{subset}-00000-of-00001": SUBSETS[subset] for subset in SUBSETS}).items():
        pictures = [Image.new("L" if raw else "RGB", (8, 8), grey if raw else (grey,) * 3) for grey, _ in examples]
        columns = {image: pictures, label: [number for _, number in examples], **{key: [0] * len(examples) for key in more}}
        features = {
            image: datasets.Image(),
            label: datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64"),
            **more,
        }
        if raw:
            files = [io.BytesIO() for _ in pictures]
            for picture, content in zip(pictures, files):
                picture.save(content, "PNG")
            columns[image], features[image] = [content.getvalue() for content in files], datasets.Value("binary")
        path = root / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet(str(path))


@pytest.fixture
def hub(monkeypatch):
    """Starts a Hub that has what `serve` writes; returns the list of (repository, revision) that will be fetched."""
    requests = []

    def start(**arguments):
        def fetch_files(repository, kind, patterns, folder, revision=None, progress=SILENT):
            assert kind == "dataset"
            requests.append((repository, revision))
            serve(folder, **arguments)
            return COMMIT

        monkeypatch.setattr("src.data.hub_copy.fetch_files", fetch_files)
        return requests

    return start


@pytest.fixture
def server(monkeypatch):
    """A Hub on this machine that the real client asks."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("src.downloads.patience.PATIENCE", 2.0)  # no fault here ends by itself
    with serving(Hub()) as local_hub:
        monkeypatch.setattr("src.data.hub_copy.fetch_files", partial(fetch, endpoint=local_hub.address))
        yield local_hub


def files(folder):
    """Return the contents of parquet files by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_a_copy_is_fetched_from_a_hub_resumed_pinned_and_read(server, tmp_path, monkeypatch):
    serve(tmp_path / "source")
    served = files(tmp_path / "source")
    commit = server.add("tanganke/resisc45", {**served, "data/contrast-0.parquet": b"other images"}, "datasets")
    shrink(monkeypatch, "RESISC45", SUBSETS, ["airplane", "sea ice"])
    task = find_tasks(["RESISC45"], tmp_path)[0]
    assert task.is_fetchable and "download=true" in task.problems()[0]
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
    assert_same(task.examples("test"), SUBSETS["test"])
    folder = tmp_path / "hub" / "tanganke--resisc45"
    assert files(folder) == served and commit in (folder / ".fetched.json").read_text()
    victim = folder / last
    victim.write_bytes(victim.read_bytes()[:-1])
    assert last in find_tasks(["RESISC45"], tmp_path)[0].problems(was_fetched=True)[0]
    assert "download=true" not in find_tasks(["RESISC45"], tmp_path)[0].problems(was_fetched=True)[0]


def test_tasks_on_one_repository_with_different_patterns_are_complete_each_by_its_own(server, tmp_path):
    for name in ("a", "b"):
        serve(tmp_path / "source", {f"{name}/{subset}-0": SUBSETS[subset] for subset in SUBSETS}, names=("x", "y"))
    server.add("some/body", files(tmp_path / "source"), "datasets")
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
    shrink(monkeypatch, "RESISC45", SUBSETS, ["airplane", "sea ice"])
    assert_same(find_tasks(["RESISC45"], tmp_path)[0].examples("test"), SUBSETS["test"])


def test_copies_are_put_into_the_papers_order_where_they_kept_the_names_of_files(tmp_path, monkeypatch):
    subsets = {"train": [(10, 1), (20, 0), (30, 1), (40, 0)], "test": [(50, 1), (60, 0)]}
    names = {10: "b_2.jpg", 20: "a_9.jpg", 30: "b_1.jpg", 40: "a_1.jpg", 50: "b.jpg", 60: "a.jpg"}
    for subset, examples in subsets.items():
        columns = {"image": [{"bytes": encode(grey), "path": names[grey]} for grey, _ in examples],
                   "label": [("banded", "dotted")[label] for _, label in examples]}  # fmt: skip
        (tmp_path / "dtd").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "dtd" / f"{subset}.parquet", row_group_size=2)
    shrink(monkeypatch, "DTD", subsets, ["banded", "dotted"])
    task = find_tasks(["DTD"], tmp_path / "data", {"DTD": {"source": str(tmp_path / "dtd")}})[0]
    assert_same(task.source.load("train"), [(40, 0), (20, 0), (30, 1), (10, 1)])
    assert task.notes == []
    shrink(monkeypatch, "FER2013", subsets, [("angry",), ("disgusted",)])
    serve(tmp_path / "faces", subsets, names=("angry", "disgust"))
    faces = find_tasks(["FER2013"], tmp_path / "data", {"FER2013": {"source": str(tmp_path / "faces")}})[0]
    assert_same(faces.source.load("train"), subsets["train"])
    assert "order of" in faces.notes[0] and "may not be the papers'" in faces.notes[0]


def encode(grey):
    """Return an image as a png."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(content, "PNG")
    return content.getvalue()


def test_an_image_and_classes_that_cannot_be_read_are_named(tmp_path):
    own = {"Mine": {"source": str(tmp_path), "templates": ["a {}."]}}
    for subset, content in (("train", encode(1)), ("test", encode(1)[:40])):
        table = pyarrow.table({"image": [encode(1), content], "label": ["cat", "dog"]})
        pyarrow.parquet.write_table(table, tmp_path / f"{subset}.parquet", row_group_size=1)
    with pytest.raises(UserError, match=r"test.parquet, number 0 of row group 1 cannot be read .*get it anew"):
        _ = find_tasks(["Mine"], tmp_path / "data", own)[0].examples("test")[1]
    pyarrow.parquet.write_table(pyarrow.table({"image": [encode(1)], "label": ["owl"]}), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"classes that the training subset has not \(owl\)"):
        find_tasks(["Mine"], tmp_path / "data", own)[0].examples("test")


def test_row_groups_are_let_go_when_they_grow_too_many_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "CACHE_BYTES", 500)
    monkeypatch.setattr(row_groups, "row_group_cache", row_groups.ProcessLocal(row_groups.RowGroupCache))
    examples = [(n, n % 2) for n in range(40)]
    table = pyarrow.table(
        {"image": [encode(grey) for grey, _ in examples], "label": [("a", "b")[label] for _, label in examples]}
    )
    for subset in SUBSETS:
        (tmp_path / "mine").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / "mine" / f"{subset}.parquet", row_group_size=3)
    task = find_tasks(["Mine"], tmp_path / "data", {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    assert_same(task.examples("test"), examples)
    assert_same(pickle.loads(pickle.dumps(task.examples("test"))), examples)
    cache = row_groups.row_group_cache()
    assert 0 < cache._size <= 500 and cache._size == sum(group.nbytes for group in cache._groups.values())
    assert not (tmp_path / "data").exists()


# The classes of each copy on the Hub as its card has them, where they are not those of the specification.
CARDS = {
    "KMNIST": list("おきすつなはまやれを"),
    "CIFAR100": ["cra" if name == "crab" else name for name in vision.SPECS["CIFAR100"].classes],
    "OxfordIIITPet": [name.lower().replace(" ", "_") for name in vision.SPECS["OxfordIIITPet"].classes],
    "Food101": [name.replace("_", " ") for name in reversed(vision.SPECS["Food101"].classes)],
    "PCAM": ["0", "1"],
    "SVHN": list("0123456789"),
    "MNIST": list("0123456789"),
    "FER2013": ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"],
    "FashionMNIST": ["T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "RenderedSST2": ["negative", "positive"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, spec in vision.SPECS.items() if spec.hub_copy])
def test_the_classes_of_every_copy_are_known_by_name(name):
    spec = vision.SPECS[name]
    data_names = CARDS.get(name, [synonyms(class_name)[0] for class_name in spec.classes])
    names, labels = map_classes(spec, data_names, None, "there")
    in_order = [data_names[(labels or list(range(len(data_names)))).index(label)] for label in range(len(data_names))]
    assert names == spec.classes and sorted(labels or range(len(data_names))) == list(range(spec.class_count))
    if name == "FER2013":
        assert in_order == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    elif name == "Food101":
        assert labels == list(range(100, -1, -1))
    else:
        assert labels is None


def test_the_classes_of_a_copy_may_be_in_another_order_but_no_others(hub, tmp_path, monkeypatch):
    hub(names=("Sea_Ice", "AIRPLANE"))
    shrink(monkeypatch, "RESISC45", SUBSETS, ["airplane", "sea ice"])
    task = find_tasks(["RESISC45"], tmp_path)[0]
    task.fetch()
    assert list(task.classes) == ["airplane", "sea ice"]
    assert_same(task.examples("test"), [(grey, 1 - label) for grey, label in SUBSETS["test"]])
    hub(names=("sea lion", "airplane"))
    other = find_tasks(["RESISC45"], tmp_path / "other")[0]
    other.fetch()
    with pytest.raises(UserError, match="sea lion unknown; sea ice not there"):
        other.examples("test")


def test_every_revision_that_a_user_names_has_a_folder_of_its_own(hub, tmp_path, monkeypatch):
    hub(names=("bengal", "abyssinian"))
    shrink(monkeypatch, "OxfordIIITPet", SUBSETS, ["Abyssinian", "Bengal"])
    pets = find_tasks(["OxfordIIITPet"], tmp_path, {"OxfordIIITPet": {"source": "somebody/pets@main"}})[0]
    pets.fetch()
    assert_same(pets.examples("test"), [(grey, 1 - label) for grey, label in SUBSETS["test"]])
    assert (tmp_path / "hub" / "somebody--pets@main").is_dir()


def test_columns_of_bytes_and_folders_of_subsets(hub, tmp_path, monkeypatch):
    subsets = {f"default/{subset}/0000": SUBSETS[subset] for subset in SUBSETS}
    requests = hub(subsets=subsets, names=("angry", "disgust"), image="img_bytes", label="labels", raw=True)
    shrink(monkeypatch, "FER2013", SUBSETS, [("angry",), ("disgusted",)])
    task = find_tasks(["FER2013"], tmp_path)[0]
    task.fetch()
    assert requests == [("Jeneral/fer-2013", "refs/convert/parquet")]
    assert_same(task.examples("test"), SUBSETS["test"])
    assert task.examples("test")[0][0].mode == "L"


def test_a_copy_without_validation_images_leaves_that_to_the_rule(hub, tmp_path, monkeypatch):
    examples = [(n, n % 2) for n in range(20)]
    hub(subsets={"data/train-0": examples, "data/test-0": examples[:3]}, names=("annual crop land", "Forest"))
    shrink(monkeypatch, "EuroSAT", {"train": examples, "val": examples[:2], "test": examples[:3]}, ["annual crop land", "forest"])
    task = find_tasks(["EuroSAT"], tmp_path)[0]
    task.fetch()
    assert [len(task.examples(split)) for split in ("train", "val", "test")] == [18, 2, 3]


def test_labels_and_pictures_of_other_columns_are_left_out(tmp_path, monkeypatch):
    serve(
        tmp_path / "mine",
        names=("ray", "aquarium_fish"),
        image="img",
        label="fine_label",
        coarse_label=datasets.ClassLabel(names=["fish"]),
    )
    shrink(monkeypatch, "CIFAR100", SUBSETS, ["aquarium_fish", "ray"])
    task = find_tasks(["CIFAR100"], tmp_path, {"CIFAR100": {"source": str(tmp_path / "mine")}})[0]
    assert_same(task.examples("test"), [(grey, 1 - label) for grey, label in SUBSETS["test"]])
    assert list(task.classes) == ["aquarium_fish", "ray"]


def test_what_is_wrong_with_parquet_files_is_a_sentence(tmp_path, monkeypatch):
    own = {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}}

    def task():
        return find_tasks(["Mine"], tmp_path, own)[0]

    serve(tmp_path / "mine", names=None)
    with pytest.raises(UserError, match=r"does not name its classes; give 'tasks.Mine.classes="):
        _ = task().classes
    own["Mine"]["classes"] = ["only"]
    with pytest.raises(UserError, match="label 1, but 1 class"):
        task().examples("test")
    own["Mine"]["classes"] = ["one", "two"]
    assert_same(task().examples("test"), SUBSETS["test"])
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
    assert_same(task.examples("test"), SUBSETS["test"])
    assert task.fingerprint("test") != first


def test_a_changed_file_is_read_anew(tmp_path):
    own = {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}}
    serve(tmp_path / "mine", names=("b", "a"))
    assert_same(find_tasks(["Mine"], tmp_path, own)[0].examples("test"), SUBSETS["test"])
    serve(tmp_path / "mine", {"data/train-00000-of-00001": [(1, 0)], "data/test-00000-of-00001": [(200, 0)]}, names=("b", "a"))
    task = find_tasks(["Mine"], tmp_path, own)[0]
    assert_same(task.examples("test"), [(200, 0)])
    assert list(task.classes) == ["b", "a"]


def test_labels_may_be_words_and_validation_files_may_be_the_test_files(tmp_path):
    for subset, examples in (("train", SUBSETS["train"]), ("validation", SUBSETS["test"])):
        pictures = [Image.new("RGB", (8, 8), (grey,) * 3) for grey, _ in examples]
        columns = {"image": pictures, "label": [("wren", "tit")[label] for _, label in examples]}
        path = tmp_path / "mine" / f"{subset}.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(str(path))
    task = find_tasks(["Birds"], tmp_path, {"Birds": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    assert list(task.classes) == ["tit", "wren"]
    assert_same(task.examples("test"), [(grey, 1 - label) for grey, label in SUBSETS["test"]])


def test_files_that_describe_nothing_are_read_by_the_form_of_their_columns(tmp_path, monkeypatch):
    for subset, examples in SUBSETS.items():
        files = [io.BytesIO() for _ in examples]
        for file, (grey, _) in zip(files, examples):
            Image.new("RGB", (8, 8), (grey,) * 3).save(file, "PNG")
        columns = {
            "image": [{"bytes": file.getvalue(), "path": None} for file in files],
            "label": [label for _, label in examples],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{subset}.parquet")
    shrink(monkeypatch, "SVHN", SUBSETS)
    task = find_tasks(["SVHN"], tmp_path / "data", {"SVHN": {"source": str(tmp_path)}})[0]
    assert_same(task.examples("test"), SUBSETS["test"])


def test_copies_are_named_in_a_form_the_hub_takes():
    for hub_copy in (spec.hub_copy for spec in vision.SPECS.values() if spec.hub_copy):
        assert hub_copy.repository.count("/") == 1
        assert hub_copy.revision is None or "/" in hub_copy.revision or len(hub_copy.revision) == 40
