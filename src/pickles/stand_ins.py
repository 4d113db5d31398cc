"""Stand-ins for the names in a pickle of modules: inert objects that keep their arguments and run nothing."""

import torch
from torch import Tensor

from src.pickles.torch_format import DTYPES, PickledStorage, StorageKind
from src.pickles.unpickler import DictStandIn, FunctionStandIn, safe_key

TORCH_VALUES = ("Size", "Tensor", "device", *(name for name, value in vars(torch).items() if isinstance(value, torch.qscheme)))
TORCH_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class InertObject:
    """Stands for an object of any class: it keeps the attributes that were set on it, and does nothing."""

    __slots__ = ("state",)

    def __new__(cls, *_: object, **__: object) -> "InertObject":
        instance = super().__new__(cls)
        instance.state = {}
        return instance

    def __init__(self, *_: object, **__: object):
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class ScriptModule(InertObject):
    """Stands for a module of TorchScript."""

    __slots__ = ()


class OddTensor:
    """Stands for a tensor of a kind that is not read.

    kind: in words, for messages.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: str):
        self.kind = kind

    def __setstate__(self, _: object) -> None:
        pass


class PendingTensor:
    """Stands for a tensor until its storage is mapped.

    attributes: the names of those that were set on it, which are not read.
    """

    __slots__ = ("attributes", "dtype", "offset", "shape", "storage", "stride")

    def __init__(self, storage: object, offset: object, shape: object, stride: object, dtype: object, metadata: object):
        """metadata: whether the numbers are conjugated or negated when they are used, by torch's names."""
        if not isinstance(storage, PickledStorage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise TypeError("a malformed tensor")
        if not isinstance(dtype, torch.dtype):
            raise TypeError("a tensor without a dtype")
        if isinstance(metadata, dict) and any(map(bool, metadata.values())):
            raise TypeError("a tensor that is a conjugate or negative view, save its resolve_conj() or resolve_neg()")
        self.storage, self.offset, self.shape, self.stride, self.dtype = storage, offset, shape, stride, dtype
        self.attributes: tuple[str, ...] = ()

    def __setstate__(self, _: object) -> None:
        pass

    def to_tensor(self) -> Tensor:
        """Return the tensor, a view of its storage (see `PickledStorage.view`)."""
        return self.storage.view(self.dtype, self.offset, self.shape, self.stride)


def _rebuild(storage: object, offset: object, shape: object, stride: object, _grad=None, _hooks=None, metadata: object = None):
    return PendingTensor(storage, offset, shape, stride, getattr(storage, "dtype", None), metadata)


def _rebuild_v3(storage, offset, shape, stride, _grad: object, _hooks: object, dtype: object, metadata: object = None):
    return PendingTensor(storage, offset, shape, stride, dtype, metadata)


def _rebuild_with_attributes(rebuild: object, _type: object, arguments: tuple, state: object = None, *_: object) -> object:
    """Return a tensor without the attributes that were set on it; it keeps their names."""
    if rebuild not in REBUILD.values():
        raise TypeError("a tensor of an unknown class")
    return _rebuild_parameter_with_state(rebuild(*arguments), None, None, state)


def _rebuild_parameter_with_state(tensor: object, _grad: object, _hooks: object, state: object, *_: object) -> object:
    if isinstance(tensor, PendingTensor) and isinstance(state, dict):
        tensor.attributes = tuple(map(str, state))
    return tensor


def _odd(kind: str) -> FunctionStandIn:
    return FunctionStandIn(lambda *_: OddTensor(kind))


_first = FunctionStandIn(lambda value, *_: value)
_list = FunctionStandIn(lambda items=(), *_: list(items))
REBUILD = {
    "_rebuild_tensor": FunctionStandIn(_rebuild),
    "_rebuild_tensor_v2": FunctionStandIn(_rebuild),
    "_rebuild_tensor_v3": FunctionStandIn(_rebuild_v3),
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": FunctionStandIn(_rebuild_parameter_with_state),
    "_rebuild_sparse_tensor": _odd("sparse"),
    "_rebuild_sparse_csr_tensor": _odd("sparse"),
    "_rebuild_nested_tensor": _odd("nested"),
    "_rebuild_qtensor": _odd("quantized"),
    "_rebuild_meta_tensor_no_storage": _odd("without values, on the device meta"),
    "_rebuild_wrapper_subclass": _odd("of a class of its own"),
}
STAND_INS: dict[tuple[str, str], object] = {
    **{("collections", name): DictStandIn for name in ("OrderedDict", "defaultdict", "Counter")},
    ("builtins", "set"): FunctionStandIn(lambda items=(): frozenset(map(safe_key, items))),
    **{("builtins", name): InertObject for name in ("object", "complex", "bytearray")},
    ("_codecs", "encode"): InertObject,  # of bytes
    ("copyreg", "_reconstructor"): FunctionStandIn(lambda *_: InertObject()),
    **{("torch._utils", name): rebuild for name, rebuild in REBUILD.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): FunctionStandIn(_rebuild_with_attributes),
    ("torch.serialization", "_get_layout"): InertObject,
    **{("torch.jit._pickle", f"build_{kind}list"): _list for kind in ("int", "tensor", "double", "bool")},
    ("torch.jit._pickle", "restore_type_tag"): _first,
    **{(module, name): StorageKind(dtype) for name, dtype in DTYPES.items() for module in ("torch", "torch.storage")},
    **{("torch", name): InertObject for name in TORCH_VALUES},
    **{("torch", name): dtype for name, dtype in TORCH_DTYPES.items()},
}
