"""Read arrays out of pickles without running anything in them."""

import codecs
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy._core.multiarray import _reconstruct
from numpy._core.numeric import _frombuffer

from src.errors import UserError

# What rebuilds an array, under the names that numpy 1 and numpy 2 write, and nothing else.
HARMLESS = {
    ("_codecs", "encode"): codecs.encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
NUMPY, ZIP = b"\x93NUMPY", b"PK"


def read_arrays(path: Path) -> object:
    """What was pickled: arrays in plain containers, written by np.save (as an object array), torch.save or pickle.

    Raises UserError naming what the file asks to call, if that is anything but what rebuilds an array.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(NUMPY))
            file.seek(0)
            if start == NUMPY:
                return _from_numpy(file, path)
            if start.startswith(ZIP):
                with zipfile.ZipFile(file) as archive:
                    (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
                    return _Reader(io.BytesIO(archive.read(name)), path).load()
            return _Reader(file, path).load()
    except UserError:
        raise
    except Exception as reason:  # a spoiled pickle can raise anything
        raise UserError(f"{path} cannot be read ({type(reason).__name__}: {reason}); copy or download it again") from reason


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        try:
            return HARMLESS[module, name]
        except KeyError:
            raise UserError(
                f"{self._path} asks to call {module}.{name}, which no file of arrays needs; nothing in it was run. "
                "Do not use this file"
            ) from None


def _from_numpy(file: io.BufferedReader, path: Path) -> object:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    _, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.load(file, allow_pickle=False)
    found = _Reader(file, path).load()
    return found.item() if isinstance(found, np.ndarray) and found.ndim == 0 else found
