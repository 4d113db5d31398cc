"""Every dataset's own format, through the real readers."""

import gzip
import pickle
import threading
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import torchvision.datasets

from src.data import vision
from src.data.catalogue import find_tasks
from src.errors import UserError
from tests.dataset_files import NATIVE, PARTS, TEST, TRAIN, folders, idx, labels, like_mnist, picture, plates, written
from tests.reading import look, same, shrunk


@pytest.mark.parametrize("name", NATIVE)
def test_the_papers_files_are_read_in_their_order(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    made = make(tmp_path, monkeypatch)
    published = vision.ROWS[name].sizes["test"]
    task = find_tasks([name], tmp_path)[0]
    with pytest.raises(UserError, match=f"{vision.ROWS[name].count if classes else f'{published:,}'}"):
        task.examples("test")
    shrunk(monkeypatch, name, made, classes)
    task = find_tasks([name], tmp_path)[0]
    assert task.problems() == []
    same(task.examples("test"), made["test"])
    same(task.origin.part("train"), made["train"])
    assert list(task.classes) == (classes or list(vision.ROWS[name].classes))
    assert task.examples("test") is task.examples("test")
    if name == "EuroSAT":
        same(task.examples("val"), made["val"])
        same(task.examples("train"), made["train"])
    again = pickle.loads(pickle.dumps(task.examples("test")))  # a DataLoader's workers get it so
    same(again, made["test"])


@pytest.mark.parametrize("name", NATIVE)
def test_a_fingerprint_changes_with_the_files_and_reads_no_image(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    shrunk(monkeypatch, name, make(tmp_path, monkeypatch), classes)
    before = {split: find_tasks([name], tmp_path)[0].fingerprint(split) for split in ("train", "val", "test")}
    task = find_tasks([name], tmp_path)[0]
    assert {split: task.fingerprint(split) for split in before} == before and len(set(before.values())) == 3
    for path in task.origin._place.sources("train"):
        victim = path if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())[0]
        victim.write_bytes(victim.read_bytes() + b" ")
    assert task.fingerprint("train") != before["train"]


@pytest.mark.parametrize("name", ["MNIST", "Food101", "CIFAR10", "SUN397", "GTSRB", "PCAM", "RESISC45"])
def test_a_folder_of_the_users_own_is_the_layout_or_what_is_in_it(name, tmp_path, monkeypatch):
    make, classes = NATIVE[name]
    made = make(tmp_path / "mine", monkeypatch)
    shrunk(monkeypatch, name, made, classes)
    [first, *_] = (tmp_path / "mine").iterdir()
    inner = sorted(path for path in first.iterdir() if path.is_dir())[:1] if name in ("Food101", "PCAM") else []
    for source in (tmp_path / "mine", first, *inner):
        task = find_tasks([name], tmp_path / "data", {name: {"source": str(source)}})[0]
        assert task.problems() == [] and not task.fetchable
        same(task.examples("test"), made["test"])
    other = tmp_path / "mine" / "other"
    other.mkdir()
    assert find_tasks([name], tmp_path / "data", {name: {"source": str(other)}})[0].problems()


def test_image_folders_of_the_users_own_follow_the_rows_order_of_classes(tmp_path, monkeypatch):
    made = folders(tmp_path / "faces", ["angry", "disgust", "sad"], {"train": "train", "test": "test"})
    shrunk(monkeypatch, "FER2013", made, [("angry",), ("disgusted",), ("sad", "depressed")])
    reordered = [("sad", "depressed"), ("angry",), ("disgusted",)]
    monkeypatch.setitem(vision.ROWS, "FER2013", replace(
        vision.ROWS["FER2013"], classes=reordered, aliases=[("sad",), ("angry",), ("disgust",)]))  # fmt: skip
    task = find_tasks(["FER2013"], tmp_path, {"FER2013": {"source": str(tmp_path / "faces")}})[0]
    assert [label for _, label in look(task.examples("test"))] == [1, 1, 2, 2, 0, 0] and task.classes == reordered
    with pytest.raises(UserError, match="3 classes and MNIST was published with 10"):
        find_tasks(["MNIST"], tmp_path, {"MNIST": {"source": str(tmp_path / "faces")}})[0].examples("test")
    (tmp_path / "faces/test/sad").rename(tmp_path / "faces/test/glad")
    with pytest.raises(UserError, match="other classes than the training part"):
        find_tasks(["FER2013"], tmp_path, {"FER2013": {"source": str(tmp_path / "faces")}})[0].examples("test")


def test_imagenet_is_tested_on_val_in_folder_where_there_is_one(tmp_path, monkeypatch):
    codes = ["n01440764", "n01443537"]
    made = folders(tmp_path / "imagenet", codes, {"train": "train", "test": "val_in_folder"}, "JPEG")
    picture(tmp_path / "imagenet/val/ILSVRC2012_val_00000001.JPEG", 1)
    shrunk(monkeypatch, "ImageNet", made, ["tench", "goldfish"])
    same(find_tasks(["ImageNet"], tmp_path)[0].examples("test"), made["test"])


def test_files_that_cannot_be_read_are_a_sentence(tmp_path):
    like_mnist(tmp_path / "MNIST")
    written(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", b"not one of ours")
    with pytest.raises(UserError, match="MNIST cannot be read from"):
        find_tasks(["MNIST"], tmp_path)[0].examples("test")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a web server, and the folder it serves."""
    served = tmp_path / "served"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", served
        running.shutdown()


@pytest.mark.parametrize("reader", ["MNIST", "KMNIST"])
def test_torchvision_downloads_to_where_the_papers_have_it(reader, server, tmp_path, monkeypatch):
    address, served = server
    sums = []
    for word, examples in (("train", TRAIN), ("t10k", TEST)):
        for kind, content in (("images-idx3", plates(examples, 28, 28)), ("labels-idx1", labels(examples))):
            name = f"{word}-{kind}-ubyte.gz"
            sums.append((name, written(served / name, gzip.compress(idx(content)))))
    kind = getattr(torchvision.datasets, reader)
    monkeypatch.setattr(kind, "resources", sums)
    monkeypatch.setattr(kind, "mirrors", [address])
    shrunk(monkeypatch, reader, PARTS)
    task = find_tasks([reader], tmp_path / "data")[0]
    assert task.problems() and task.fetchable
    task.fetch()
    assert task.problems() == []
    same(task.examples("test"), TEST)
    home = tmp_path / "data" / vision.ROWS[reader].home
    assert sorted(path.name for path in (home / reader / "raw").iterdir()) == sorted(name.removesuffix(".gz") for name, _ in sums)
    assert [path for path in (tmp_path / "data").iterdir() if path.name.startswith(".")] == []


def test_a_download_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr("src.data.mirror.fetch_files", refuse)
    task = find_tasks(["MNIST"], tmp_path / "data")[0]
    with pytest.raises(UserError, match=r"torchvision could not(.|\n)*the Hub is away(.|\n)*tasks.MNIST.source"):
        task.fetch()
    assert list((tmp_path / "data").iterdir()) == []


def refuse(*_, **__):
    raise UserError("the Hub is away")


def test_the_table_is_that_of_the_papers():
    protocol = vision.PROMPTS
    assert len(vision.ROWS) == 21 and set(protocol) == set(vision.ROWS)
    for name, row in vision.ROWS.items():
        assert set(row.sizes) == ({"train", "val", "test"} if name == "EuroSAT" else {"train", "test"})
        assert row.classes is None or len(row.classes) == row.count
        assert not row.aliases or len(row.aliases) == row.count
