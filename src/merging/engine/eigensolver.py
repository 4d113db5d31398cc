"""A few eigenvectors of a symmetric matrix on the CPU, several threads at once.

LAPACK's syevr finds the leading eighth of the eigenvectors in half of the time that torch.linalg.eigh takes for all.
scipy.linalg.eigh calls it too, but holds Python's lock meanwhile, so that threads wait for one another; its functions
are called here by the pointers that scipy publishes for this (scipy.linalg.cython_lapack).
"""

import ctypes
from functools import cache

import torch
from scipy.linalg import cython_lapack
from threadpoolctl import ThreadpoolController
from torch import Tensor

_KINDS = {torch.float32: ("ssyevr", ctypes.c_float), torch.float64: ("dsyevr", ctypes.c_double)}
_COLUMN, _ROW = 26, 10  # workspace a row, of which LAPACK asks at least so much
_BLOCK = 64  # of the reduction to tridiagonal form: more workspace than the least makes it fast


def largest_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues, ascending, (count,), and eigenvectors in columns, (n, count), as torch.linalg.eigh
    has them; of a symmetric CPU matrix, (n, n) float32 or float64, of which the lower triangle is read.

    Raises torch.linalg.LinAlgError if LAPACK does not converge.
    """
    name, real = _KINDS[matrix.dtype]
    size = len(matrix)
    work = matrix.contiguous().clone()  # row-major: its lower triangle is the upper one of what LAPACK reads
    values = torch.empty(size, dtype=matrix.dtype)
    vectors = torch.empty(count, size, dtype=matrix.dtype)
    support = torch.empty(2 * max(count, 1), dtype=torch.int32)
    room = torch.empty(max(_COLUMN, _BLOCK + 6) * size, dtype=matrix.dtype)
    counts = torch.empty(_ROW * size, dtype=torch.int32)
    found, status = ctypes.c_int(0), ctypes.c_int(0)
    _single_threaded()
    _lapack(name)(
        _text(b"V"), _text(b"I"), _text(b"U"), _whole(size), _data(work), _whole(size), _number(real), _number(real),
        _whole(size - count + 1), _whole(size), _number(real), ctypes.byref(found), _data(values), _data(vectors),
        _whole(size), _data(support), _data(room), _whole(len(room)), _data(counts), _whole(len(counts)), ctypes.byref(status),
    )  # fmt: skip
    if status.value != 0 or found.value != count:
        raise torch.linalg.LinAlgError(f"{name} found {found.value} of {count} eigenvalues of a {size} x {size} matrix")
    return values[:count], vectors.T


@cache
def _lapack(name: str) -> ctypes._CFuncPtr:
    capsule = cython_lapack.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(get_pointer(capsule, get_name(capsule)))


@cache
def _single_threaded() -> None:
    """One thread a call of scipy's own library from now on: callers run side by side, a thread a core."""
    controller = ThreadpoolController()
    own = [
        library["filepath"]
        for library in controller.info()
        if "scipy.libs" in library["filepath"] or "/scipy/" in library["filepath"]
    ]
    controller.select(filepath=own).limit(limits=1)


def _text(letter: bytes) -> object:
    return ctypes.byref(ctypes.c_char(letter))


def _whole(number: int) -> object:
    return ctypes.byref(ctypes.c_int(number))


def _number(real: type) -> object:
    return ctypes.byref(real(0))


def _data(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
