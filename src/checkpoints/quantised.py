"""Quantised weights, told by their entries: codes and scales, which mean nothing on their own and cannot be averaged."""

import re

import torch
from torch import Tensor

from src.errors import UserError
from src.state_dict import StateDict, outline

# Of an entry's name, by the format that writes it.
SIGNS = {
    "bitsandbytes (4 bit)": re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$"),
    "bitsandbytes (8 bit)": re.compile(r"\.(SCB|weight_format)$"),
    "GPTQ or AWQ": re.compile(r"(^|\.)(qweight|qzeros|g_idx)$"),
    "8-bit floats with scales": re.compile(r"(weight|kernel|proj)_(scale|scale_inv)$"),
    "MXFP4": re.compile(r"_(blocks|scales)$"),
}
SCALE_DTYPES = {getattr(torch, name) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2") if hasattr(torch, name)}


def check_not_quantised(name: str, model: StateDict) -> None:
    """Raise UserError naming the format if a model's entries are codes of a quantisation and their scales.

    name: of the model, for the message.
    """
    shapes = outline(model)
    for kind, sign in SIGNS.items():
        found = [key for key in shapes if sign.search(key)]
        if found and any(_is_code(leaf) for leaf in shapes.values()):
            raise UserError(_message(name, kind, found[0]))
    narrow = [key for key, leaf in shapes.items() if leaf.dtype in SCALE_DTYPES]
    if narrow:
        raise UserError(_message(name, f"{shapes[narrow[0]].dtype} scales", narrow[0]))


def _is_code(leaf: Tensor) -> bool:
    """Whether an entry has the dtype of codes; position ids and counters have wider ones."""
    return leaf.dtype == torch.int32 or (leaf.dtype.itemsize == 1 and leaf.dtype != torch.bool)


def _message(name: str, kind: str, key: str) -> str:
    return (
        f"{name} is quantised ({kind}: {key}), and codes cannot be merged; load it without quantisation, or dequantise it, and "
        "save it in 16 bit first"
    )
