"""Layouts of datasets below data_location: the fields `home`, `readers` and, in words, `layout` of a `DatasetSpec`."""

from collections.abc import Mapping, Sequence
from functools import partial

from src.data.readers.image_folders import ImageFolders
from src.data.readers.torchvision import BY_TRAIN, Torchvision

PathsBySubset = Mapping[str, Sequence[str]]


def read_by_torchvision(
    dataset_class: str,
    paths: PathsBySubset,
    layout: str,
    home: str = "",
    reader: type[Torchvision] = Torchvision,
    **options: object,
) -> dict:
    """Return the layout that a dataset class of torchvision reads, as fields of a specification.

    paths: what each subset is read from, below `home`.
    options: further fields of `reader`.
    """
    return {"home": home, "readers": [partial(reader, dataset_class=dataset_class, paths=paths, **options)], "layout": layout}


def in_folders(home: str, *choices: Mapping[str, str]) -> dict:
    """Return the layout of image folders.

    choices: the folder of each subset; the first choice whose folders are there is used.
    """
    layout = " and ".join(f"{home}/{folder}/<class>/ (the {subset} images)" for subset, folder in choices[0].items())
    return {"home": home, "readers": [partial(ImageFolders, folders=folders) for folders in choices], "layout": layout}


def like_mnist(dataset_class: str, home: str = "", prefixes: tuple[str, str] = ("train", "t10k"), **options: object) -> dict:
    """Return the layout of MNIST: four files, whose names begin with one prefix for train and another for test.

    options: further arguments of the dataset class.
    """
    paths = {
        subset: [f"{dataset_class}/raw/{prefix}-{content}-ubyte" for content in ("images-idx3", "labels-idx1")]
        for subset, prefix in zip(BY_TRAIN, prefixes)
    }
    layout = f"{home}/{paths['train'][0]}".lstrip("/") + " and the three files like it, unpacked"
    arguments = {subset: {**by_train, **options} for subset, by_train in BY_TRAIN.items()}
    return read_by_torchvision(dataset_class, paths, layout, home, arguments=arguments)


def shared_paths(folder: str, *names: str) -> PathsBySubset:
    """Return files of a folder from which both train and test are read."""
    return {subset: [f"{folder}/{name}" for name in names] for subset in BY_TRAIN}


def subset_paths(*patterns: str, train: str = "train", test: str = "test") -> PathsBySubset:
    """Return paths made from patterns, whose `{}` is the word for the subset."""
    return {subset: [pattern.format(word) for pattern in patterns] for subset, word in (("train", train), ("test", test))}
