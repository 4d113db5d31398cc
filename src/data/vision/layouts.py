"""How a row says where its examples lie below data_location: `home`, `places` and, in words, `layout` of a Row."""

from collections.abc import Mapping, Sequence
from functools import partial

from src.data.readers.image_folders import ImageFolders
from src.data.readers.torchvision import BY_TRAIN, Torchvision

Needs = Mapping[str, Sequence[str]]


def read_by_torchvision(
    reader: str, needs: Needs, layout: str, home: str = "", kind: type[Torchvision] = Torchvision, **options: object
) -> dict:
    """needs: what each part is read from, below `home`; options: of Torchvision."""
    return {"home": home, "readers": [partial(kind, dataset_class=reader, needs=needs, **options)], "layout": layout}


def in_folders(home: str, *choices: Mapping[str, str]) -> dict:
    """Image folders: the folder of each part, the first of the choices that is there."""
    layout = " and ".join(f"{home}/{folder}/<class>/ (the {subset} images)" for subset, folder in choices[0].items())
    return {"home": home, "readers": [partial(ImageFolders, folders=folders) for folders in choices], "layout": layout}


def like_mnist(reader: str, home: str = "", files: tuple[str, str] = ("train", "t10k"), **arguments: object) -> dict:
    """Four files, whose names begin with one of two words."""
    needs = {
        subset: [f"{reader}/raw/{word}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        for subset, word in zip(BY_TRAIN, files)
    }
    layout = f"{home}/{needs['train'][0]}".lstrip("/") + " and the three files like it, unpacked"
    by_part = {subset: {**how, **arguments} for subset, how in BY_TRAIN.items()}
    return read_by_torchvision(reader, needs, layout, home, arguments=by_part)


def both(folder: str, *names: str) -> Needs:
    """Both parts are read from these."""
    return {subset: [f"{folder}/{name}" for name in names] for subset in BY_TRAIN}


def each(pattern: str, *more: str, train: str = "train", test: str = "test") -> Needs:
    """A name with `train` or `test` in it, and what both parts need."""
    return {
        subset: [pattern.format(word), *(name.format(word) for name in more)]
        for subset, word in (("train", train), ("test", test))
    }
