"""Small files in the formats the datasets are published in. Each image is of one grey, by which it is recognised.

The function of a dataset writes its files below `data`, as the papers' users have them, and returns the (grey, label) of
each example by subset.
"""

import hashlib
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = [(10, 0), (30, 1), (50, 1), (70, 0)], [(110, 1), (130, 0)]  # (grey, label)
SUBSETS = {"train": TRAIN, "test": TEST}


def write_image(path: Path, grey: int, size: int = 8) -> None:
    """Write an image of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (grey,) * 3).save(path)


def folders(root: Path, classes: list[str], subsets: dict[str, str], ending: str = "jpg") -> dict:
    """Write two images a class of every subset, in class folders; return the (grey, label) of each by subset.

    subsets: the folder of each.
    """
    examples = {}
    for start, (subset, folder) in enumerate(subsets.items()):
        examples[subset] = [(80 * start + 20 * label + 5 * n, label) for label in range(len(classes)) for n in range(2)]
        for number, (grey, label) in enumerate(examples[subset]):
            write_image(root / folder / classes[label] / f"image_{number}.{ending}", grey)
    return examples


def write(path: Path, content: bytes) -> str:
    """Write a file; return its md5, for the lists that torchvision compares with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def idx(content: np.ndarray) -> bytes:
    """Return an array in MNIST's format."""
    return bytes([0, 0, 8, content.ndim]) + b"".join(size.to_bytes(4, "big") for size in content.shape) + content.tobytes()


def grey_images(greys: list[tuple[int, int]], *shape: int) -> np.ndarray:
    """Return images of the greys, uint8 (n, *shape)."""
    return np.stack([np.full(shape, grey, np.uint8) for grey, _ in greys])


def labels(examples: list[tuple[int, int]]) -> np.ndarray:
    return np.array([label for _, label in examples], np.uint8)


def like_mnist(folder: Path, prefixes: tuple[str, str] = ("train", "t10k")) -> dict:
    for prefix, examples in zip(prefixes, SUBSETS.values()):
        write(folder / f"raw/{prefix}-images-idx3-ubyte", idx(grey_images(examples, 28, 28)))
        write(folder / f"raw/{prefix}-labels-idx1-ubyte", idx(labels(examples)))
    return SUBSETS


def cifar(data: Path, patch, dataset_class, key: str, classes: list[str]) -> dict:
    folder, examples = data / dataset_class.base_folder, {}
    for subset, files in (("train", dataset_class.train_list), ("test", dataset_class.test_list)):
        examples[subset], checksums = [], []
        for number, (name, _) in enumerate(files):
            batch_examples = [(grey + number, label) for grey, label in SUBSETS[subset]]
            batch = {"data": grey_images(batch_examples, 3072), key: [label for _, label in batch_examples]}
            checksums.append([name, write(folder / name, pickle.dumps(batch))])
            examples[subset] += batch_examples
        patch.setattr(dataset_class, f"{subset}_list", checksums)
    meta = dataset_class.meta
    checksum = write(folder / meta["filename"], pickle.dumps({meta["key"]: classes}))
    patch.setattr(dataset_class, "meta", {**meta, "md5": checksum})
    return examples


def svhn(data: Path, patch) -> dict:
    subsets, checksums = {"train": [(9, 9), (10, 0), (11, 1)], "test": [(20, 0), (21, 2)]}, {}
    for subset, examples in subsets.items():
        path = data / "svhn" / f"{subset}_32x32.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = np.array([[label or 10] for _, label in examples], np.uint8)  # the files call the digit 0 ten
        savemat(path, {"X": grey_images(examples, 32, 32, 3).transpose(1, 2, 3, 0), "y": digits})
        checksums[subset] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    patch.setattr(torchvision.datasets.SVHN, "split_list", checksums)
    return subsets


def gtsrb(data: Path, patch) -> dict:
    root = data / "gtsrb"
    train, test = [], [(120, 7), (130, 0)]
    for label in range(3):
        for number in range(2):
            train.append((20 * label + 5 * number, label))
            write_image(root / f"GTSRB/Training/{label:05}/00000_{number:05}.ppm", train[-1][0])
        (root / f"GTSRB/Training/{label:05}/GT-{label:05}.csv").write_text("Filename;Width\n")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, (grey, label) in enumerate(test):
        write_image(root / f"GTSRB/Final_Test/Images/{number:05}.ppm", grey)
        lines.append(f"{number:05}.ppm;8;8;1;1;7;7;{label}")
    (root / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return {"train": train, "test": test}


def stl10(data: Path, patch) -> dict:
    folder = data / "stl10/stl10_binary"
    for subset, examples in SUBSETS.items():
        write(folder / f"{subset}_X.bin", grey_images(examples, 3, 96, 96).tobytes())
        write(folder / f"{subset}_y.bin", (labels(examples) + 1).tobytes())
    return SUBSETS


def pcam(data: Path, patch) -> dict:
    (data / "PCAM/pcam").mkdir(parents=True)
    for subset, examples in SUBSETS.items():
        for axis, content in (("x", grey_images(examples, 96, 96, 3)), ("y", labels(examples).reshape(-1, 1, 1, 1))):
            with h5py.File(data / f"PCAM/pcam/camelyonpatch_level_2_split_{subset}_{axis}.h5", "w") as file:
                file[axis] = content
    return SUBSETS


def food101(data: Path, patch) -> dict:
    root, classes = data / "food101/food-101", ["apple_pie", "waffles"]
    (root / "meta").mkdir(parents=True)
    for subset, examples in SUBSETS.items():
        names = {class_name: [] for class_name in reversed(classes)}
        for number, (grey, label) in enumerate(examples):
            write_image(root / f"images/{classes[label]}/{subset}{number}.jpg", grey)
            names[classes[label]].append(f"{classes[label]}/{subset}{number}")
        (root / f"meta/{subset}.json").write_text(json.dumps(names))
    # in the order of the json
    return {subset: sorted(examples, key=lambda example: -example[1]) for subset, examples in SUBSETS.items()}


def pets(data: Path, patch) -> dict:
    root, names = data / "OxfordIIITPet/oxford-iiit-pet", ["Abyssinian", "american_bulldog"]
    (root / "annotations").mkdir(parents=True)
    for split, examples in (("trainval", TRAIN), ("test", TEST)):
        lines = []
        for grey, label in examples:
            write_image(root / f"images/{names[label]}_{grey}.jpg", grey)
            lines.append(f"{names[label]}_{grey} {label + 1} 1 1\n")
        (root / f"annotations/{split}.txt").write_text("".join(lines))
    return SUBSETS


def flowers(data: Path, patch) -> dict:
    root = data / "flowers102/flowers-102"
    everything = [*TEST, *TRAIN]
    for number, (grey, _) in enumerate(everything, start=1):
        write_image(root / f"jpg/image_{number:05}.jpg", grey)
    savemat(root / "imagelabels.mat", {"labels": labels(everything)[None] + 1})
    ids = {"tstid": [1, 2], "trnid": [3, 4, 5, 6], "valid": [1]}
    savemat(root / "setid.mat", {key: np.array([numbers]) for key, numbers in ids.items()})
    checksums = {
        key: (name, hashlib.md5((root / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    patch.setattr(torchvision.datasets.Flowers102, "_file_dict", {"image": ("102flowers.tgz", ""), **checksums})
    return SUBSETS


def cars(data: Path, patch) -> dict:
    root = data / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    dtype = [("bbox_x1", "i4"), ("class", "i4"), ("fname", "O")]
    for subset, path in (("train", root / "devkit/cars_train_annos.mat"), ("test", root / "cars_test_annos_withlabels.mat")):
        rows = [(0, label + 1, f"{number:05}.jpg") for number, (_, label) in enumerate(SUBSETS[subset], start=1)]
        for (grey, _), (*_, name) in zip(SUBSETS[subset], rows):
            write_image(root / f"cars_{subset}" / name, grey)
        savemat(path, {"annotations": np.array([rows], dtype=dtype)})
    names = np.array([["Audi RS 4 Convertible_2008", "Audi A5 Coupe 2012"]], dtype=object)
    savemat(root / "devkit/cars_meta.mat", {"class_names": names})
    return SUBSETS


def resisc45(data: Path, patch) -> dict:
    root, classes, examples = data / "resisc45", ["airplane", "sea_ice"], {"train": [], "val": [], "test": []}
    for label, name in enumerate(classes):
        for number, subset in enumerate(("train", "val", "test", "train")):
            grey = 100 * label + 20 * number
            write_image(root / f"NWPU-RESISC45/{name}/{name}_{number:03}.jpg", grey)
            examples[subset].append((grey, label))
            with open(root / f"resisc45-{subset}.txt", "a") as file:
                file.write(f"{name}_{number:03}.jpg\n")
    return examples


# By task, what writes its files, and the names of the classes in them where those count.
NATIVE = {
    "Cars": (cars, ["Audi RS 4 Convertible 2008", "Audi A5 Coupe 2012"]),
    "DTD": (
        lambda data, patch: folders(data / "dtd", ["banded", "polka-dotted"], {"train": "train", "test": "val"}),
        ["banded", "polka-dotted"],
    ),
    "EuroSAT": (
        lambda data, patch: folders(
            data / "EuroSAT_splits",
            ["AnnualCrop", "Industrial", "SeaLake"],
            {subset: subset for subset in ("train", "val", "test")},
        ),
        ["annual crop land", "industrial buildings or commercial buildings", "lake or sea"],
    ),
    "GTSRB": (gtsrb, None),
    "MNIST": (lambda data, patch: like_mnist(data / "MNIST"), None),
    "RESISC45": (resisc45, ["airplane", "sea ice"]),
    "SVHN": (svhn, None),
    "SUN397": (
        lambda data, patch: folders(data / "sun397", ["a_abbey", "a_airport_terminal"], {"train": "train", "test": "val"}),
        ["abbey", "airport terminal"],
    ),
    "STL10": (stl10, None),
    "OxfordIIITPet": (pets, ["Abyssinian", "American Bulldog"]),
    "Flowers102": (flowers, None),
    "CIFAR100": (
        lambda data, patch: cifar(data, patch, torchvision.datasets.CIFAR100, "fine_labels", ["aquarium_fish", "ray"]),
        ["aquarium_fish", "ray"],
    ),
    "PCAM": (pcam, None),
    "CIFAR10": (
        lambda data, patch: cifar(data, patch, torchvision.datasets.CIFAR10, "labels", ["airplane", "frog"]),
        ["airplane", "frog"],
    ),
    "Food101": (food101, ["apple_pie", "waffles"]),
    "FashionMNIST": (lambda data, patch: like_mnist(data / "FashionMNIST/FashionMNIST"), None),
    "RenderedSST2": (
        lambda data, patch: folders(
            data / "RenderedSST2/rendered-sst2", ["negative", "positive"], {"train": "train", "test": "test"}, "png"
        ),
        None,
    ),
    "EMNIST": (
        lambda data, patch: like_mnist(data / "EMNIST/EMNIST", ("emnist-digits-train", "emnist-digits-test")),
        None,
    ),
    "KMNIST": (lambda data, patch: like_mnist(data / "KMNIST/KMNIST"), None),
    "ImageNet": (
        lambda data, patch: folders(data / "imagenet", ["n01440764", "n01443537"], {"train": "train", "test": "val"}, "JPEG"),
        ["tench", "goldfish"],
    ),
}
