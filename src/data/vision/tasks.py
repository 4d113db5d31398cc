"""The twenty image classification tasks of the papers, and ImageNet, the control task: the specification of each.

Folders and splits are those of the papers' code, and so is the order of examples, which decides what validation is
drawn: except from copies on the Hub that keep another (a task's notes say so). Prompts and class names, in label order,
are in prompts.json. A copy's commit is given where one is known; the others are pinned when they are first downloaded.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from src.data.hub_copy import HubCopy
from src.data.readers.image_folders import ImageFolders, ListedImages
from src.data.readers.torchvision import BY_TRAIN, PatchCamelyon, Stl10
from src.data.vision.layouts import in_folders, like_mnist, read_by_torchvision, shared_paths, subset_paths
from src.data.vision.spec import DatasetSpec

CARS = "stanford_cars"
PROMPTS = json.loads(Path(__file__).with_name("prompts.json").read_text())


def _spec(
    name: str,
    class_count: int,
    train: int,
    test: int,
    val: int | None = None,
    hub_copy: HubCopy | None = None,
    has_initials: bool = False,
    **fields: object,
) -> DatasetSpec:
    """Return the specification of a dataset whose prompts and classes are in prompts.json.

    train, test, val: the number of examples it was published with.
    has_initials: whether folders are called `a_abbey` for the class abbey, as SUN397 has it.
    fields: further ones of the specification.
    """
    sizes = {"train": train, "test": test} | ({"val": val} if val else {})
    if hub_copy and hub_copy.patterns == HubCopy.patterns:  # a copy may have more subsets than the papers use
        hub_copy = replace(hub_copy, patterns=tuple(f"*{subset}*.parquet" for subset in sizes))
    prompts = PROMPTS[name]
    classes = tuple(names if isinstance(names, str) else tuple(names) for names in prompts["classnames"])
    aliases = {name: [f"{name[0]} {name}"] for name in classes} if has_initials else prompts.get("aliases", {})
    return DatasetSpec(
        name, tuple(prompts["templates"]), class_count, sizes, classes=classes, aliases=aliases, hub_copy=hub_copy, **fields
    )


_SPECS = (
    _spec(
        "Cars", 196, 8144, 8041,
        hub_copy=HubCopy("tanganke/stanford_cars", revision="9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"),
        **read_by_torchvision(
            "StanfordCars",
            {
                "train": [f"{CARS}/devkit/cars_train_annos.mat", f"{CARS}/devkit/cars_meta.mat", f"{CARS}/cars_train"],
                "test": [f"{CARS}/cars_test_annos_withlabels.mat", f"{CARS}/devkit/cars_meta.mat", f"{CARS}/cars_test"],
            },
            f"{CARS}/ with devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat",
            has_class_names=True, can_download=False, samples_attribute="_samples",
        ),
    ),
    _spec(
        "DTD", 47, 3760, 1880,
        hub_copy=HubCopy("tanganke/dtd", revision="d2afa97d9f335b1a6b3b09c637aef667f98f966e"),
        is_sorted_by_name=True,
        home="dtd",
        readers=[
            partial(ImageFolders, folders={"train": "train", "test": "val"}),
            *(  # as its authors and torchvision unpack it, which is below another dtd/
                partial(
                    ListedImages, folder=f"{inner}images", lists={
                        "train": [f"{inner}labels/train1.txt", f"{inner}labels/val1.txt"],
                        "test": [f"{inner}labels/test1.txt"],
                    },
                )
                for inner in ("", "dtd/")
            ),
        ],
        layout="dtd/train/<class>/ and dtd/val/<class>/ (the test images), or dtd/ with images/ and labels/",
    ),
    _spec(  # a copy without validation images leaves validation to be drawn from train as elsewhere
        "EuroSAT", 10, 21600, 2700, val=2700,
        hub_copy=HubCopy("tanganke/eurosat"),
        is_sorted_by_name=True,
        **in_folders("EuroSAT_splits", {"train": "train", "val": "val", "test": "test"}),
    ),
    _spec(
        "GTSRB", 43, 26640, 12630,
        hub_copy=HubCopy("tanganke/gtsrb", revision="ea889fff70dda7b09e94a4b207dded438deca549"),
        **read_by_torchvision(
            "GTSRB",
            {"train": ["gtsrb/GTSRB/Training"], "test": ["gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv"]},
            "gtsrb/ with GTSRB/Training/, GTSRB/Final_Test/Images/ and GT-final_test.csv", samples_attribute="_samples",
        ),
    ),
    _spec(
        "MNIST", 10, 60000, 10000,
        hub_copy=HubCopy("ylecun/mnist", revision="77f3279092a1c1579b2250db8eafed0ad422088c"),
        **like_mnist("MNIST"),
    ),
    _spec(
        "RESISC45", 45, 18900, 6300,
        hub_copy=HubCopy("tanganke/resisc45"),
        is_sorted_by_name=True,
        home="resisc45",
        readers=[
            partial(ListedImages, folder="NWPU-RESISC45", lists={"train": ["resisc45-train.txt"], "test": ["resisc45-test.txt"]}),
        ],
        layout="resisc45/ with NWPU-RESISC45/<class>/, resisc45-train.txt and resisc45-test.txt",
    ),
    _spec(
        "SVHN", 10, 73257, 26032,
        hub_copy=HubCopy("ufldl-stanford/svhn", ("cropped_digits/train*.parquet", "cropped_digits/test*.parquet")),
        **read_by_torchvision("SVHN", subset_paths("{}_32x32.mat"), "svhn/train_32x32.mat and svhn/test_32x32.mat", "svhn"),
    ),
    _spec(
        "SUN397", 397, 19850, 19850,
        hub_copy=HubCopy("tanganke/sun397", revision="9c4afd6174afa3974f209a0ef099dbbe244dfd27"),
        is_sorted_by_name=True, has_initials=True,
        **in_folders("sun397", {"train": "train", "test": "val"}),
    ),
    _spec(
        "STL10", 10, 5000, 8000,
        hub_copy=HubCopy("tanganke/stl10", revision="49ae7f94508f7feae62baf836db284306eab0b0f"),
        **read_by_torchvision(
            "STL10", subset_paths("stl10_binary/{}_X.bin", "stl10_binary/{}_y.bin"),
            "stl10/stl10_binary/ with train_X.bin, train_y.bin, test_X.bin and test_y.bin", "stl10", Stl10,
        ),
    ),
    _spec(
        "OxfordIIITPet", 37, 3680, 3669,
        hub_copy=HubCopy("timm/oxford-iiit-pet", revision="10b688881011725fa2fa3d856a47536c9a7e6968"),
        **read_by_torchvision(
            "OxfordIIITPet",
            subset_paths("oxford-iiit-pet/annotations/{}.txt", "oxford-iiit-pet/images", train="trainval"),
            "OxfordIIITPet/oxford-iiit-pet/ with annotations/ and images/",
            "OxfordIIITPet", arguments={"train": {"split": "trainval"}, "test": {"split": "test"}},
            has_class_names=True, samples_attribute="_images",
        ),
    ),
    _spec(
        "Flowers102", 102, 1020, 6149,
        hub_copy=HubCopy("dpdl-benchmark/oxford_flowers102", revision="544b55c9af69a05742ead7571cd7ae23cfcd758b"),
        **read_by_torchvision(
            "Flowers102", shared_paths("flowers-102", "jpg", "imagelabels.mat", "setid.mat"),
            "flowers102/flowers-102/ with jpg/, imagelabels.mat and setid.mat", "flowers102", samples_attribute="_image_files",
        ),
    ),
    _spec(
        "CIFAR100", 100, 50000, 10000,
        hub_copy=HubCopy("uoft-cs/cifar100", revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5"),
        **read_by_torchvision(
            "CIFAR100", shared_paths("cifar-100-python", "train", "test", "meta"), "cifar-100-python/, all of its files",
            arguments=BY_TRAIN, has_class_names=True,
        ),
    ),
    _spec(
        "PCAM", 2, 262144, 32768,
        hub_copy=HubCopy("zacharielegault/PatchCamelyon"),
        **read_by_torchvision(
            "PCAM", subset_paths("pcam/camelyonpatch_level_2_split_{}_x.h5", "pcam/camelyonpatch_level_2_split_{}_y.h5"),
            "PCAM/pcam/camelyonpatch_level_2_split_train_x.h5 and the three files like it, unpacked", "PCAM", PatchCamelyon,
        ),
    ),
    _spec(  # what the papers load, as the Hub itself converts it to parquet
        "FER2013", 7, 28709, 7178,
        hub_copy=HubCopy("Jeneral/fer-2013", ("default/train/*.parquet", "default/test/*.parquet"), "refs/convert/parquet"),
    ),
    _spec(
        "CIFAR10", 10, 50000, 10000,
        hub_copy=HubCopy("uoft-cs/cifar10", revision="0b2714987fa478483af9968de7c934580d0bb9a2"),
        **read_by_torchvision(
            "CIFAR10",
            shared_paths(
                "cifar-10-batches-py", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"
            ),
            "cifar-10-batches-py/, all of its files", arguments=BY_TRAIN, has_class_names=True,
        ),
    ),
    _spec(
        "Food101", 101, 75750, 25250,
        hub_copy=HubCopy(  # what is called validation there are the papers' test images
            "ethz/food101", ("data/train*.parquet", "data/validation*.parquet"), "1ac27ab4707a642b84c229d077056d0f25a62fa7"
        ),
        **read_by_torchvision(
            "Food101", subset_paths("food-101/meta/{}.json", "food-101/images"), "food101/food-101/ with meta/ and images/",
            "food101", has_class_names=True, samples_attribute="_image_files",
        ),
    ),
    _spec(
        "FashionMNIST", 10, 60000, 10000,
        hub_copy=HubCopy("zalando-datasets/fashion_mnist"),
        **like_mnist("FashionMNIST", "FashionMNIST"),
    ),
    _spec(
        "RenderedSST2", 2, 6920, 1821,
        hub_copy=HubCopy("nateraw/rendered-sst2"),
        **read_by_torchvision(
            "RenderedSST2", subset_paths("rendered-sst2/{}"), "RenderedSST2/rendered-sst2/ with train/<class>/ and test/<class>/",
            "RenderedSST2", samples_attribute="_samples",
        ),
    ),
    _spec(
        "EMNIST", 10, 240000, 40000,
        **like_mnist("EMNIST", "EMNIST", ("emnist-digits-train", "emnist-digits-test"), split="digits"),
    ),
    _spec(
        "KMNIST", 10, 60000, 10000,
        hub_copy=HubCopy("tanganke/kmnist", revision="6b345bef535b98131f1d945d552906452d19b2f9"),
        **like_mnist("KMNIST", "KMNIST"),
    ),
    _spec(
        "ImageNet", 1000, 1281167, 50000,
        codes=r"n\d{8}",
        **in_folders("imagenet", {"train": "train", "test": "val_in_folder"}, {"train": "train", "test": "val"}),
    ),
)  # fmt: skip

SPECS = {spec.name: spec for spec in _SPECS}
