"""Stand-ins for the names in a pickle of modules: inert objects that keep their arguments and run nothing."""

import torch
from torch import Tensor

from src.pickles.torch_format import DTYPES, PickledStorage, StorageKind
from src.pickles.unpickler import DictStandIn, FunctionStandIn

TORCH_VALUES = ("Size", "device", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype)))


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


class PendingTensor:
    """Stands for a tensor until its storage is mapped."""

    __slots__ = ("dtype", "offset", "shape", "storage", "stride")

    def __init__(self, storage: object, offset: object, shape: object, stride: object, dtype: torch.dtype | None = None):
        if not isinstance(storage, PickledStorage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise TypeError("a malformed tensor")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride
        self.dtype = dtype or storage.dtype

    def __setstate__(self, _: object) -> None:
        pass

    def to_tensor(self) -> Tensor:
        """Return the tensor, a view of its storage (see `PickledStorage.view`)."""
        return self.storage.view(self.dtype, self.offset, self.shape, self.stride)


def _rebuild_v3(storage: object, offset: object, shape: object, stride: object, _grad: object, _hooks: object, dtype: object, *_):
    if not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor without a dtype")
    return PendingTensor(storage, offset, shape, stride, dtype)


_rebuild = FunctionStandIn(lambda storage, offset, shape, stride, *_: PendingTensor(storage, offset, shape, stride))
_list = FunctionStandIn(lambda items=(), *_: list(items))
_rebuild_parameter = FunctionStandIn(lambda tensor, *_: tensor)
STAND_INS: dict[tuple[str, str], object] = {
    **{("collections", name): DictStandIn for name in ("OrderedDict", "defaultdict")},
    ("builtins", "set"): FunctionStandIn(lambda items=(): frozenset(items)),
    ("builtins", "object"): InertObject,
    ("copyreg", "_reconstructor"): FunctionStandIn(lambda *_: InertObject()),
    **{("torch._utils", name): _rebuild for name in ("_rebuild_tensor", "_rebuild_tensor_v2")},
    ("torch._utils", "_rebuild_tensor_v3"): FunctionStandIn(_rebuild_v3),
    **{("torch.jit._pickle", f"build_{kind}list"): _list for kind in ("int", "tensor", "double", "bool")},
    ("torch.jit._pickle", "restore_type_tag"): FunctionStandIn(lambda value, *_: value),
    **{("torch._utils", name): _rebuild_parameter for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")},
    **{(module, name): StorageKind(dtype) for name, dtype in DTYPES.items() for module in ("torch", "torch.storage")},
    **{
        ("torch", name): getattr(torch, name) if isinstance(getattr(torch, name), torch.dtype) else InertObject
        for name in TORCH_VALUES
    },
}
