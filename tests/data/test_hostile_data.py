"""Files of others that lie: each is an image or a sentence, in bounded memory."""

import os
import re
import resource
import warnings
from pathlib import Path

import pytest

from src.data.images import ImageFiles
from src.data.registry import find_tasks
from src.errors import UserError
from tests.helpers.dataset_files import NATIVE
from tests.helpers.examples import shrink
from tests.hostile import images, tables

ROOM = 2**30  # bytes a reader may take, beside what the process has


def bounded(read):
    """Return what `read()` returns, or the sentence it raises, from a child with `ROOM` more memory and ten seconds."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            warnings.simplefilter("ignore")
            os.write(sender, str(read()).encode())
        except UserError as error:
            os.write(sender, b"sentence: " + str(error).encode())
        except BaseException as error:
            os.write(sender, f"traceback: {error!r}".encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        answer = file.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return answer


def is_sentence(answer: str) -> bool:
    """Whether an answer is one sentence, and not that the room was too small: what lies is refused before it takes any."""
    ran_out = re.search("MemoryError|[Aa]llocate|malloc|realloc", answer)
    return answer.startswith("sentence: ") and "\n" not in answer and len(answer) < 900 and not ran_out


HARMLESS = {
    "png_with_more_pixels_than_it_claims": "(4, 4)",
    "palette_without_colours": "(4, 4)",
    "jpeg_whose_exif_points_behind_it": "(16, 16)",
    "parquet_with_json_of_other_things": "(2, (16, 16), 0)",
}


@pytest.mark.parametrize("name", images.FILES)
def test_an_image_is_read_or_refused_in_a_sentence(name, tmp_path):
    path = tmp_path / "image.jpg"
    images.FILES[name](path)
    answer = bounded(lambda: ImageFiles([(str(path), 0)])[0][0].size)
    assert answer == HARMLESS[name] if name in HARMLESS else is_sentence(answer) and "image.jpg" in answer


# Where the first word of a file's name puts it, in files of this task that are as they should be.
PLACES = {
    "list": ("RESISC45", "resisc45/resisc45-test.txt"),
    "idx": ("MNIST", "MNIST/raw/t10k-images-idx3-ubyte"),
    "pickle": ("CIFAR10", "cifar-10-batches-py/test_batch"),
    "mat": ("Cars", "stanford_cars/cars_test_annos_withlabels.mat"),
    "hdf5": ("PCAM", "PCAM/pcam/camelyonpatch_level_2_split_test_x.h5"),
    "bin": ("STL10", "stl10/stl10_binary/test_y.bin"),
    "parquet": ("Mine", "train.parquet"),
}


@pytest.mark.parametrize("name", tables.FILES)
def test_a_table_is_read_or_refused_in_a_sentence(name, tmp_path, monkeypatch):
    task_name, victim = PLACES[name.partition("_")[0]]
    options, subset = {}, "test"
    if task_name == "Mine":
        tables.parquet(tables.good)(tmp_path / "test.parquet")
        options, subset = {"Mine": {"source": str(tmp_path), "templates": ["a {}."], "classes": ["a", "b"]}}, "train"
        if "names" in name:
            del options["Mine"]["classes"]
    else:
        make, classes = NATIVE[task_name]
        shrink(monkeypatch, task_name, make(tmp_path, monkeypatch), classes)
        (tmp_path / victim).unlink()
    tables.FILES[name](tmp_path / victim)

    def read() -> tuple[int, tuple[int, int], int]:
        examples = find_tasks([task_name], tmp_path, options)[0].source.load(subset)
        image, label = examples[0]
        return len(examples), image.size, label

    answer = bounded(read)
    assert answer == HARMLESS[name] if name in HARMLESS else is_sentence(answer), answer
