"""A few eigenvectors of a symmetric matrix on the CPU, several threads at once.

LAPACK's syevr finds the leading eighth of the eigenvectors in half of the time that torch.linalg.eigh takes for all.
scipy.linalg.eigh calls it too, but holds Python's lock meanwhile, so that threads wait for one another; its functions
are called here by the pointers that scipy publishes for this (scipy.linalg.cython_lapack).
"""

import ctypes
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

_KINDS = {torch.float32: ("ssyevr", ctypes.c_float), torch.float64: ("dsyevr", ctypes.c_double)}
_COLUMN, _ROW = 26, 10  # workspace a row, of which LAPACK asks at least so much
_BLOCK = 64  # of the reduction to tridiagonal form: more workspace than the least makes it fast


def largest_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest eigenvalues, ascending, (count,), and eigenvectors in columns, (n, count).

    matrix: symmetric, (n, n), float32 or float64 on the CPU; the lower triangle is read.

    Raise torch.linalg.LinAlgError if LAPACK does not converge.
    """
    name, real = _KINDS[matrix.dtype]
    size = len(matrix)
    work = matrix.contiguous().clone()  # row-major: its lower triangle is the upper one of what LAPACK reads
    values = torch.empty(size, dtype=matrix.dtype)
    vectors = torch.empty(count, size, dtype=matrix.dtype)
    support = torch.empty(2 * max(count, 1), dtype=torch.int32)
    real_work = torch.empty(max(_COLUMN, _BLOCK + 6) * size, dtype=matrix.dtype)
    int_work = torch.empty(_ROW * size, dtype=torch.int32)
    found_count, status = ctypes.c_int(0), ctypes.c_int(0)
    with _single_threaded_blas:
        _lapack(name)(
            _char(b"V"), _char(b"I"), _char(b"U"), _int(size), _data(work), _int(size), _real(real), _real(real),
            _int(size - count + 1), _int(size), _real(real), ctypes.byref(found_count), _data(values), _data(vectors),
            _int(size), _data(support), _data(real_work), _int(len(real_work)), _data(int_work), _int(len(int_work)),
            ctypes.byref(status),
        )  # fmt: skip
    if status.value != 0 or found_count.value != count:
        raise torch.linalg.LinAlgError(f"{name} found {found_count.value} of {count} eigenvalues of a {size} x {size} matrix")
    return values[:count], vectors.T


@cache
def _lapack(name: str) -> ctypes._CFuncPtr:
    from scipy.linalg import cython_lapack  # slow to import, and few methods decompose

    capsule = cython_lapack.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(get_pointer(capsule, get_name(capsule)))


class _SingleThreadedBlas:
    """Scipy's own BLAS with one thread a call: callers run side by side, a thread a core.

    The limit holds while any caller is inside; the process's own setting comes back after the last one.
    """

    def __init__(self) -> None:
        self._lock, self._callers, self._limit = Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            self._callers += 1
            if self._callers == 1:
                self._limit = _scipy_blas().limit(limits=1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._callers -= 1
            if self._callers == 0:
                self._limit.restore_original_limits()


_single_threaded_blas = _SingleThreadedBlas()


@cache
def _scipy_blas() -> Any:
    """Return threadpoolctl's controller of the library that scipy brings."""
    from threadpoolctl import ThreadpoolController

    _lapack("ssyevr")  # so that the library is loaded, and found
    controller = ThreadpoolController()
    files = [library["filepath"] for library in controller.info()]
    return controller.select(filepath=[file for file in files if "scipy.libs" in file or "/scipy/" in file])


def _char(letter: bytes) -> object:
    return ctypes.byref(ctypes.c_char(letter))


def _int(number: int) -> object:
    return ctypes.byref(ctypes.c_int(number))


def _real(kind: type) -> object:
    return ctypes.byref(kind(0))


def _data(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
