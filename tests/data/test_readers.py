"""Every dataset's own format, through the real readers."""

import gzip
import multiprocessing
import pickle
import threading
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pyarrow.parquet
import pytest
import torchvision.datasets

from src.data.class_names import match_key
from src.data.readers import row_groups
from src.data.registry import find_tasks
from src.data.vision import tasks as vision
from src.errors import UserError
from tests.helpers.dataset_files import (
    NATIVE,
    SUBSETS,
    TEST,
    TRAIN,
    folders,
    grey_images,
    idx,
    labels,
    like_mnist,
    write,
    write_image,
)
from tests.helpers.examples import assert_same, pixels_and_labels, shrink
from tests.helpers.progress import RecordedProgress

DIGITS = list("0123456789")
PUBLISHED = {  # sizes of train, test and perhaps val; number of classes; the classes, where the files of tests name none
    "Cars": ((8144, 8041), 196, None),
    "DTD": ((3760, 1880), 47, None),
    "EuroSAT": ((21600, 2700, 2700), 10, None),
    "GTSRB": ((26640, 12630), 43, list(vision.SPECS["GTSRB"].classes)),
    "MNIST": ((60000, 10000), 10, DIGITS),
    "RESISC45": ((18900, 6300), 45, None),
    "SVHN": ((73257, 26032), 10, DIGITS),
    "SUN397": ((19850, 19850), 397, None),
    "STL10": ((5000, 8000), 10, ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]),
    "OxfordIIITPet": ((3680, 3669), 37, None),
    "Flowers102": ((1020, 6149), 102, list(vision.SPECS["Flowers102"].classes)),
    "CIFAR100": ((50000, 10000), 100, None),
    "PCAM": ((262144, 32768), 2, ["lymph node", "lymph node containing metastatic tumor tissue"]),
    "FER2013": ((28709, 7178), 7, None),
    "CIFAR10": ((50000, 10000), 10, None),
    "Food101": ((75750, 25250), 101, None),
    "FashionMNIST": (
        (60000, 10000),
        10,
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    ),
    "RenderedSST2": ((6920, 1821), 2, ["negative", "positive"]),
    "EMNIST": ((240000, 40000), 10, DIGITS),
    "KMNIST": ((60000, 10000), 10, ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
    "ImageNet": ((1281167, 50000), 1000, None),
}


@pytest.mark.parametrize("name", NATIVE)
def test_the_papers_files_are_read_in_their_order(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    expected = make(tmp_path, monkeypatch)
    published = vision.SPECS[name].sizes["test"]
    task = find_tasks([name], tmp_path)[0]
    with pytest.raises(UserError, match=f"{vision.SPECS[name].class_count if classes else f'{published:,}'}"):
        task.examples("test")
    shrink(monkeypatch, name, expected, classes)
    task = find_tasks([name], tmp_path)[0]
    assert task.problems() == []
    assert_same(task.examples("test"), expected["test"])
    assert_same(task.source.load("train"), expected["train"])
    assert list(task.classes) == (classes or PUBLISHED[name][2]) and task.notes == []
    assert task.examples("test") is task.examples("test")
    if name == "EuroSAT":
        assert_same(task.examples("val"), expected["val"])
        assert_same(task.examples("train"), expected["train"])
    again = pickle.loads(pickle.dumps(task.examples("test")))  # a DataLoader's workers get it so
    assert_same(again, expected["test"])


@pytest.mark.parametrize("name", NATIVE)
def test_a_fingerprint_changes_with_the_files_and_reads_no_image(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    shrink(monkeypatch, name, make(tmp_path, monkeypatch), classes)
    before = {split: find_tasks([name], tmp_path)[0].fingerprint(split) for split in ("train", "val", "test")}
    task = find_tasks([name], tmp_path)[0]
    assert {split: task.fingerprint(split) for split in before} == before and len(set(before.values())) == 3
    for path in task.source._reader.files("train"):
        victim = path if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())[0]
        victim.write_bytes(victim.read_bytes() + b" ")
    assert task.fingerprint("train") == before["train"]  # read once: a run asks often, and listings take long
    assert find_tasks([name], tmp_path)[0].fingerprint("train") != before["train"]


@pytest.mark.parametrize("name", ["MNIST", "Food101", "CIFAR10", "SUN397", "GTSRB", "PCAM", "RESISC45"])
def test_a_folder_of_the_users_own_is_the_layout_or_what_is_in_it(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    expected = make(tmp_path / "mine", monkeypatch)
    shrink(monkeypatch, name, expected, classes)
    [first, *_] = (tmp_path / "mine").iterdir()
    inner = sorted(path for path in first.iterdir() if path.is_dir())[:1] if name in ("Food101", "PCAM") else []
    for source in (tmp_path / "mine", first, *inner):
        task = find_tasks([name], tmp_path / "data", {name: {"source": str(source)}})[0]
        assert task.problems() == [] and not task.is_fetchable
        assert_same(task.examples("test"), expected["test"])
    other = tmp_path / "mine" / "other"
    other.mkdir()
    assert find_tasks([name], tmp_path / "data", {name: {"source": str(other)}})[0].problems()


def test_image_folders_of_the_users_own_follow_the_published_order_of_classes(tmp_path, monkeypatch):
    expected = folders(tmp_path / "faces", ["angry", "disgust", "sad"], {"train": "train", "test": "test"})
    shrink(monkeypatch, "FER2013", expected, [("angry",), ("disgusted",), ("sad", "depressed")])
    reordered = [("sad", "depressed"), ("angry",), ("disgusted",)]
    monkeypatch.setitem(vision.SPECS, "FER2013", replace(
        vision.SPECS["FER2013"], classes=reordered, aliases={"disgusted": ["disgust"]}))  # fmt: skip
    task = find_tasks(["FER2013"], tmp_path, {"FER2013": {"source": str(tmp_path / "faces")}})[0]
    assert [label for _, label in pixels_and_labels(task.examples("test"))] == [1, 1, 2, 2, 0, 0] and task.classes == reordered
    with pytest.raises(UserError, match="3 classes and MNIST was published with 10"):
        find_tasks(["MNIST"], tmp_path, {"MNIST": {"source": str(tmp_path / "faces")}})[0].examples("test")
    (tmp_path / "faces/test/sad").rename(tmp_path / "faces/test/glad")
    with pytest.raises(UserError, match="other classes than the training subset"):
        find_tasks(["FER2013"], tmp_path, {"FER2013": {"source": str(tmp_path / "faces")}})[0].examples("test")


def test_own_folders_have_the_labels_of_published_heads(tmp_path, monkeypatch):
    """Sorted folders number cars otherwise than the devkit, and capitals sort before small letters."""
    cases = {"Cars": ["Acura RL Sedan 2012", "AM General Hummer SUV 2000"], "OxfordIIITPet": ["Bengal", "basset_hound"]}
    order = {"Cars": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], "OxfordIIITPet": ["Basset Hound", "Bengal"]}
    for name, classes in cases.items():
        expected = folders(tmp_path / name, classes, {"train": "train", "test": "test"})
        shrink(monkeypatch, name, expected, order[name])
        task = find_tasks([name], tmp_path, {name: {"source": str(tmp_path / name)}})[0]
        in_order = list(map(match_key, order[name]))
        examples = sorted(expected["test"], key=lambda example: classes[example[1]])
        assert_same(task.examples("test"), [(grey, in_order.index(match_key(classes[label]))) for grey, label in examples])
        assert "may not be the papers'" in task.notes[0]


def test_a_class_that_is_no_text_is_named_so_that_it_can_be_printed(tmp_path):
    folders(tmp_path / "mine", ["a", "caf\udce9"], {"train": "train", "test": "test"})
    task = find_tasks(["Mine"], tmp_path, {"Mine": {"source": str(tmp_path / "mine"), "templates": ["a {}."]}})[0]
    with pytest.raises(UserError, match=r"'caf\\udce9', which is no text in UTF-8; rename it") as caught:
        _ = task.classes
    str(caught.value).encode()


def test_imagenet_folders_are_codes_numbers_or_names(tmp_path, monkeypatch):
    for count, names in enumerate((["n01440764", "n01443537"], ["0", "1"], ["goldfish", "tench"])):
        expected = folders(tmp_path / str(count) / "imagenet", names, {"train": "train", "test": "val"}, "JPEG")
        shrink(monkeypatch, "ImageNet", expected, ["tench", "goldfish"])
        labels = [1, 1, 0, 0] if names[0] == "goldfish" else [0, 0, 1, 1]
        assert_same(
            find_tasks(["ImageNet"], tmp_path / str(count))[0].examples("test"),
            [(grey, label) for (grey, _), label in zip(expected["test"], labels)],
        )
    folders(tmp_path / "3" / "imagenet", ["trout", "tuna"], {"train": "train", "test": "val"}, "JPEG")
    with pytest.raises(UserError, match="other classes than ImageNet"):
        find_tasks(["ImageNet"], tmp_path / "3")[0].examples("test")


@pytest.mark.parametrize("root", ["dtd", "dtd/dtd"])
def test_dtd_is_read_as_its_authors_and_torchvision_unpack_it(root, tmp_path, monkeypatch):
    lists = {"train1": [], "val1": [], "test1": []}
    for label, name in enumerate(["banded", "polka-dotted"]):
        for number, subset in enumerate(("train1", "test1", "val1")):
            write_image(tmp_path / root / f"images/{name}/{name}_{number:04}.jpg", 100 * label + 30 * number)
            lists[subset].append(f"{name}/{name}_{number:04}.jpg\n")
    for subset, lines in lists.items():
        write(tmp_path / root / f"labels/{subset}.txt", "".join(lines).encode())
    expected = {"train": [(0, 0), (60, 0), (100, 1), (160, 1)], "test": [(30, 0), (130, 1)]}
    shrink(monkeypatch, "DTD", expected, ["banded", "polka-dotted"])
    task = find_tasks(["DTD"], tmp_path)[0]
    assert_same(task.source.load("train"), expected["train"])
    assert_same(task.examples("test"), expected["test"])
    assert task.notes == []


@pytest.mark.parametrize("name", ["Cars", "GTSRB", "Food101", "OxfordIIITPet", "Flowers102", "RESISC45"])
def test_images_that_lists_name_and_that_are_not_there_are_named_before_any_is_read(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    expected = make(tmp_path, monkeypatch)
    shrink(monkeypatch, name, expected, classes)
    victims = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".ppm"))
    for path in victims:
        path.unlink()
    if name == "RESISC45":
        victims[0].with_suffix(".txt").write_text("")
    with pytest.raises(UserError, match=r"of the \d+ images .* unpack its archive again"):
        find_tasks([name], tmp_path)[0].examples("test")


@pytest.mark.parametrize("name", ["Food101", "DTD", "STL10"])
def test_an_image_that_cannot_be_read_is_named(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    expected = make(tmp_path, monkeypatch)
    shrink(monkeypatch, name, expected, classes)
    task = find_tasks([name], tmp_path)[0]
    examples = task.examples("test")
    for path in [path for path in tmp_path.rglob("*") if path.suffix == ".jpg" or path.name == "test_X.bin"]:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"the image .*cannot be read .*get it anew"):
        _ = examples[1]


@pytest.mark.parametrize("name", ["PCAM", "parquet"])
def test_a_forked_worker_does_not_wait_for_a_lock_of_its_parent(name, tmp_path, monkeypatch):
    """The fork comes while another thread reads: in the child nobody would let go of the lock."""
    if name == "PCAM":
        shrink(monkeypatch, name, NATIVE[name][0](tmp_path, monkeypatch))
        examples = find_tasks([name], tmp_path)[0].examples("test")
        lock, _ = examples._examples._lock_and_file()
    else:
        write_image(tmp_path / "any.png", 5)
        table = pyarrow.table({"image": [(tmp_path / "any.png").read_bytes()] * 2, "label": ["a", "b"]})
        for subset in SUBSETS:
            pyarrow.parquet.write_table(table, tmp_path / f"{subset}.parquet")
        options = {"Mine": {"source": str(tmp_path), "templates": ["a {}."]}}
        examples = find_tasks(["Mine"], tmp_path / "data", options)[0].examples("test")
        lock = row_groups.row_group_cache()._lock
    with lock:
        child = multiprocessing.get_context("fork").Process(target=examples.__getitem__, args=(0,))
        child.start()
        child.join(20)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0


def test_links_that_lead_back_are_followed_once(tmp_path, monkeypatch):
    expected = folders(tmp_path / "dtd", ["banded", "dotted"], {"train": "train", "test": "val"})
    shrink(monkeypatch, "DTD", expected, ["banded", "dotted"])
    (tmp_path / "dtd" / "val" / "banded" / "back").symlink_to(tmp_path / "dtd" / "val")
    assert find_tasks(["DTD"], tmp_path)[0].fingerprint("test")


def test_imagenet_is_tested_on_val_in_folder_where_there_is_one(tmp_path, monkeypatch):
    codes = ["n01440764", "n01443537"]
    expected = folders(tmp_path / "imagenet", codes, {"train": "train", "test": "val_in_folder"}, "JPEG")
    write_image(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", 1)
    shrink(monkeypatch, "ImageNet", expected, ["tench", "goldfish"])
    assert_same(find_tasks(["ImageNet"], tmp_path)[0].examples("test"), expected["test"])


def test_files_that_cannot_be_read_are_a_sentence(tmp_path):
    like_mnist(tmp_path / "MNIST")
    write(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", b"not one of ours")
    with pytest.raises(UserError, match="MNIST cannot be read from"):
        find_tasks(["MNIST"], tmp_path)[0].examples("test")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a web server, and the folder it serves."""
    folder = tmp_path / "served"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web_server:
        threading.Thread(target=web_server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{web_server.server_port}/", folder
        web_server.shutdown()


def hidden_files(folder) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def write_archives(folder) -> list[tuple[str, str]]:
    """Write MNIST's four files as they are served; return their names and checksums."""
    checksums = []
    for prefix, examples in (("train", TRAIN), ("t10k", TEST)):
        for content, array in (("images-idx3", grey_images(examples, 28, 28)), ("labels-idx1", labels(examples))):
            name = f"{prefix}-{content}-ubyte.gz"
            checksums.append((name, write(folder / name, gzip.compress(idx(array)))))
    return checksums


@pytest.mark.parametrize("name", ["MNIST", "KMNIST"])
def test_torchvision_downloads_to_where_the_papers_have_it(name, server, tmp_path, monkeypatch):
    address, served = server
    checksums = write_archives(served)
    dataset_class = getattr(torchvision.datasets, name)
    monkeypatch.setattr(dataset_class, "resources", checksums)
    monkeypatch.setattr(dataset_class, "mirrors", [address])
    shrink(monkeypatch, name, SUBSETS)
    task = find_tasks([name], tmp_path / "data")[0]
    assert task.problems() and task.is_fetchable
    task.fetch()
    assert task.problems() == []
    assert_same(task.examples("test"), TEST)
    raw = tmp_path / "data" / vision.SPECS[name].home / name / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(archive.removesuffix(".gz") for archive, _ in checksums)
    assert hidden_files(tmp_path / "data") == [f".{name}.lock"]  # whoever waits for it and whoever comes later lock one file


def test_a_download_goes_on_with_the_archives_that_came_and_mends_files_cut_short(server, tmp_path, monkeypatch):
    address, served = server
    checksums = write_archives(served)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", checksums)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr("src.data.hub_copy.fetch_files", refuse)
    shrink(monkeypatch, "MNIST", SUBSETS)
    last = (served / checksums[-1][0]).read_bytes()
    (served / checksums[-1][0]).write_bytes(b"spoiled on the way")
    with pytest.raises(UserError, match="torchvision could not"):
        find_tasks(["MNIST"], tmp_path / "data")[0].fetch()
    for name, _ in checksums[:-1]:
        (served / name).unlink()  # what came is not asked for again
    (served / checksums[-1][0]).write_bytes(last)
    raw = tmp_path / "data/MNIST/raw"
    write(raw / "train-images-idx3-ubyte", b"cut short")
    progress = RecordedProgress()
    task = find_tasks(["MNIST"], tmp_path / "data")[0]
    task.fetch(progress)
    assert progress.reports == [("MNIST by torchvision", 0)]
    assert_same(task.source.load("train"), TRAIN)
    assert hidden_files(tmp_path / "data") == [".MNIST.lock"]


def test_a_download_that_fails_says_why_and_leaves_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr("src.data.hub_copy.fetch_files", refuse)
    task = find_tasks(["MNIST"], tmp_path / "data")[0]
    with pytest.raises(UserError, match=r"torchvision could not(.|\n)*the Hub is away(.|\n)*tasks.MNIST.source"):
        task.fetch()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".MNIST.lock"]


def refuse(*_, **__):
    raise UserError("the Hub is away")


def test_the_table_is_that_of_the_papers():
    """How many classes each dataset has, and how many examples each subset, stand here a second time."""
    assert list(vision.SPECS) == list(PUBLISHED)
    for name, spec in vision.SPECS.items():
        sizes, class_count, _ = PUBLISHED[name]
        assert tuple(spec.sizes.values()) == sizes and list(spec.sizes) == ["train", "test", "val"][: len(sizes)], name
        assert spec.class_count == len(spec.classes) == class_count, name


@pytest.mark.parametrize("name, number, class_name", [
    ("Cars", 0, "AM General Hummer SUV 2000"), ("Cars", 98, "FIAT 500 Abarth 2012"), ("Cars", 173, "Ram C/V Cargo Van Minivan 2012"),
    ("DTD", 30, "polka-dotted"), ("DTD", 46, "zigzagged"), ("SUN397", 0, "abbey"), ("SUN397", 2, "airport terminal"),
    ("SUN397", 396, "youth hostel"), ("OxfordIIITPet", 1, "American Bulldog"), ("OxfordIIITPet", 34, "Staffordshire Bull Terrier"),
    ("CIFAR100", 26, "crab"), ("CIFAR100", 41, "lawn_mower"), ("CIFAR10", 1, "automobile"), ("Food101", 0, "apple_pie"),
    ("Food101", 16, "cheese_plate"), ("Flowers102", 54, "pelargonium"), ("KMNIST", 9, "wo"), ("ImageNet", 0, "tench"),
    ("RESISC45", 35, "sea ice"), ("EuroSAT", 9, "lake or sea"), ("STL10", 2, "car"), ("PCAM", 1, "lymph node containing metastatic tumor tissue"),
])  # fmt: skip
def test_classes_are_numbered_as_published_heads_have_them(name, number, class_name, tmp_path):
    assert find_tasks([name], tmp_path)[0].classes[number] == class_name  # before any data is there


def test_lists_that_loaders_sort_are_sorted():
    for name in ("DTD", "CIFAR10", "CIFAR100", "Food101", "OxfordIIITPet", "RESISC45"):
        names = [class_name.replace(" ", "_") for class_name in vision.SPECS[name].classes]
        assert names == sorted(names), name
    sun = [f"{class_name[0]}_{class_name.replace(' ', '_')}" for class_name in vision.SPECS["SUN397"].classes]
    assert sun == sorted(sun)
