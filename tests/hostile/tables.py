"""Tables and lists of datasets made to do harm or to mislead: each function writes one to a path.

The first word of a name is the kind of file: `parquet`, `list` (RESISC45's names of images), `idx` (MNIST's images), `pickle`
(CIFAR10's first batch), `mat` (SVHN's, Cars' annotations), `hdf5` (PCAM's images) or `bin` (STL10's labels).
"""

import base64
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tests.hostile.images import Write, content, encoded

PNG = encoded("PNG")


def parquet(columns: Callable[[], dict], features: object = None, **options: object) -> Write:
    """Return what writes columns as a parquet file.

    features: what the description of the columns says, or its text.
    options: of pyarrow.
    """
    options = {"compression": "zstd", "store_schema": features is not None} | options

    def write(path: Path) -> None:
        table = pa.table(columns())
        if features is not None:
            description = features if isinstance(features, str) else json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": description})
        pyarrow.parquet.write_table(table, path, **options)

    return write


def shared(value: object, rows: int) -> pa.Array:
    """Return a column of one value, which a file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def zeros(rows: int, size: int) -> pa.Array:
    """Return a column of rows of `size` bytes that are zero."""
    offsets = np.arange(0, (rows + 1) * size, size, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(np.zeros(rows * size, np.uint8))])


def good() -> dict:
    return {"image": [PNG, PNG], "label": [0, 1]}


def nested(depth: int) -> pa.Array:
    kind = pa.binary()
    for _ in range(depth):
        kind = pa.struct([("bytes", kind)])
    return pa.array([None, None], kind)


def cut_parquet(path: Path) -> None:
    parquet(good)(path)
    os.truncate(path, path.stat().st_size - 9)


def lying_footer(path: Path) -> None:
    """Write a file whose last bytes say that its metadata takes four gigabytes."""
    parquet(good)(path)
    path.write_bytes(path.read_bytes()[:-8] + b"\xff\xff\xff\xffPAR1")


def hdf5(make: Callable[[h5py.File], object]) -> Write:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            make(file)

    return write


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 96, 96, 3), np.uint8)
    layout[:] = h5py.VirtualSource("/dev/zero", "x", (2, 96, 96, 3))
    file.create_virtual_dataset("x", layout)


def external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/dev/zero", "/x")


class Runs:
    """Pickles to a call of a function that ends the process."""

    def __reduce__(self):
        return os._exit, (77,)


def sparse(size: int, head: bytes = b"") -> Write:
    """Return what writes a file that claims `size` bytes and takes none."""

    def write(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, size)

    return write


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def idx(*sizes: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)


MANY = 5_000_000
FILES: dict[str, Write] = {
    "parquet_of_one_image_shared_by_many_rows": parquet(
        lambda: {"image": shared(b"x" * 2**20, 9000), "label": pa.array(np.zeros(9000, np.int8))}
    ),
    "parquet_of_one_word_shared_by_many_rows": parquet(lambda: {"image": [PNG] * 9000, "label": shared("x" * 2**20, 9000)}),
    "parquet_of_millions_of_rows_in_a_few_kilobytes": parquet(
        lambda: {"image": shared(b"x", MANY), "label": pa.array(np.zeros(MANY, np.int8))}, row_group_size=MANY
    ),
    "parquet_of_three_hundred_megabytes_of_nothing": parquet(
        lambda: {"image": zeros(300, 2**20), "label": pa.array(np.zeros(300, np.int8))},
        compression="lz4",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=2**26,
    ),
    "parquet_nested_ninety_deep": parquet(lambda: {"image": nested(90), "label": [0, 1]}),
    "parquet_cut_short": cut_parquet,
    "parquet_whose_footer_claims_four_gigabytes": lying_footer,
    "parquet_without_contents": content(lambda: b"PAR1PAR1"),
    "parquet_with_deep_json": parquet(good, "[" * 100_000),
    "parquet_with_json_of_other_things": parquet(good, '{"info": [1, 2]}'),
    "parquet_with_json_in_no_encoding": parquet(good, "\ud800".encode("utf-8", "surrogatepass").decode("latin1")),
    "parquet_with_half_characters_as_names": parquet(
        good, '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["\\ud800", "b"]}}}}'
    ),
    "parquet_with_numbers_as_names": parquet(good, {"label": {"_type": "ClassLabel", "names": [1, {"a": 2}]}}),
    "parquet_with_names_that_are_a_number": parquet(good, {"label": {"_type": "ClassLabel", "names": 10**9}}),
    "parquet_with_lists_as_labels": parquet(lambda: {"image": [PNG, PNG], "label": [[0], [1]]}),
    "parquet_with_labels_beyond_any_integer": parquet(
        lambda: {"image": [PNG, PNG], "label": pa.array([2**64 - 1, 0], pa.uint64())}
    ),
    "parquet_with_labels_that_are_no_numbers": parquet(lambda: {"image": [PNG, PNG], "label": [float("nan"), 1.0]}),
    "parquet_with_images_that_are_structs_without_bytes": parquet(lambda: {"image": [{"url": "a"}] * 2, "label": [0, 1]}),
    "parquet_with_images_that_are_nothing": parquet(lambda: {"image": pa.array([None, None], pa.binary()), "label": [0, 1]}),
    "parquet_of_text": content(lambda: b"label,image\n0,a.png\n" * 9),
    "parquet_pipe": os.mkfifo,
    "parquet_folder": Path.mkdir,
    "parquet_endless": endless,
    "parquet_of_a_terabyte_of_nothing": sparse(2**40, b"PAR1"),
    "list_of_a_terabyte_of_nothing": sparse(2**40),
    "list_pipe": os.mkfifo,
    "list_endless": endless,
    "list_in_no_encoding": content(lambda: b"airplane_000.jpg\n\xff\xfe\n"),
    "list_of_one_word_without_end": content(lambda: b"a" * 10**7),
    "list_of_places_elsewhere": content(lambda: b"../../../../etc/passwd\n/dev/zero\n"),
    "idx_that_claims_four_billion_images": content(lambda: idx(2**32 - 1, 28, 28)),
    "idx_of_unknown_numbers": content(lambda: idx(2, 28, 28, kind=10)),
    "idx_of_no_dimension": content(lambda: b"\0\0\x08\0"),
    "idx_empty": content(bytes),
    "idx_of_a_terabyte_of_nothing": sparse(2**40, idx(2, 28, 28)),
    "idx_pipe": os.mkfifo,
    "pickle_that_runs": content(lambda: pickle.dumps(Runs())),
    "pickle_in_base64": content(lambda: base64.b64encode(pickle.dumps({"data": []}))),
    "mat_of_zeros": content(lambda: bytes(1000)),
    "mat_pipe": os.mkfifo,
    "hdf5_that_claims_a_billion_images": hdf5(
        lambda file: file.create_dataset("x", (10**9, 96, 96, 3), np.uint8, chunks=(1, 96, 96, 3))
    ),
    "hdf5_in_chunks_of_gigabytes": hdf5(
        lambda file: file.create_dataset("x", (100_000, 96, 96, 3), np.uint8, chunks=(100_000, 96, 96, 1))
    ),
    "hdf5_of_other_files": hdf5(virtual),
    "hdf5_of_a_link_to_a_device": hdf5(external_link),
    "hdf5_of_a_group": hdf5(lambda file: file.create_group("x")),
    "hdf5_of_words": hdf5(lambda file: file.create_dataset("x", data=[b"a", b"b"])),
    "hdf5_of_nothing": content(lambda: b"\x89HDF\r\n\x1a\n"),
    "hdf5_pipe": os.mkfifo,
    "bin_of_a_terabyte_of_nothing": sparse(2**40),
    "bin_endless": endless,
    "bin_pipe": os.mkfifo,
}
