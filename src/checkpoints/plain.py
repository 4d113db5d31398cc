"""Whether entries are weights as they are: no codes of a quantisation, and no factors of an adapter.

Both are told by the names of entries, which every library has its own for.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from src.errors import UserError
from src.runtime.untrusted import read_json
from src.state_dict import StateDict, outline

# By the format that writes them: names of entries beside codes, which are of 8 or 32 bits.
QUANTISED = {
    "bitsandbytes (4 bit)": r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$",
    "bitsandbytes (8 bit)": r"\.(SCB|weight_format)$",
    "GPTQ or AWQ": r"(^|\.)(qweight|qzeros|g_idx)$",
    "compressed-tensors": r"(^|\.)weight_(packed|shape|zero_point|global_scale)$",
    "8-bit floats with scales": r"(^|\.)scaled_fp8$",
    "EXL2": r"(^|\.)(q_weight|q_scale|q_scale_max|q_group_map)$",
    "HQQ, AQLM or quanto": r"(^|\.)(W_q|codebooks|codes|weight\._data|weight\._scale)$",
}
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE = re.compile(r"scale|_s$")
SCALE_DTYPES = {getattr(torch, name) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2") if hasattr(torch, name)}
# By the library that writes them: names of an adapter's entries.
ADAPTERS = {
    "peft": r"(^|\.)(lora_(embedding_)?[AB]|lora_magnitude_vector|vera_lambda_[bd]|ia3_l|hada_w[12]_[ab]|lokr_w[12]\w*)(\.|$)",
    "kohya": r"(^|\.)(lora_(down|up|mid)\.weight|dora_scale)$",
    "diffusers": r"\.(lora(_linear_layer)?\.(down|up)\.weight|processor\.\w+_lora\.(down|up)\.weight)$",
    "torchtune": r"\.lora_[ab]\.weight$",
}
REMEDIES = {
    "peft": "give the adapter's folder, with adapter_config.json, as a fine-tuned model",
    **dict.fromkeys(
        ("kohya", "diffusers", "torchtune"), "merge it into its model with the tool that trained it, and give the model it makes"
    ),
}


def check_plain(name: object, model: StateDict, folder: Path | None = None) -> None:
    """Raise UserError naming the format if a model's entries are codes and scales, or an adapter's factors.

    name: of the model, for the message.
    folder: that holds it, whose config.json may say that it is quantised.
    """
    shapes = outline(model)
    for kind, pattern in QUANTISED.items():
        found = next(filter(re.compile(pattern).search, shapes), None)
        if found and any(map(_is_code, shapes.values())):
            raise UserError(_quantised(name, kind, found))
    blocks = [key for key, leaf in shapes.items() if key.endswith("_blocks") and leaf.dtype == torch.uint8]
    if pair := next((key for key in blocks if f"{key.removesuffix('_blocks')}_scales" in shapes), None):
        raise UserError(_quantised(name, "MXFP4", pair))
    matrix = next((key for key, leaf in shapes.items() if key.endswith("weight") and leaf.ndim > 1 and _is_byte(leaf)), None)
    if matrix:
        raise UserError(_quantised(name, f"a matrix of {shapes[matrix].dtype}", matrix))
    modules = {_module(key) for key, leaf in shapes.items() if leaf.dtype in FLOAT8} - {""}
    scale = next((key for key, leaf in shapes.items() if leaf.is_floating_point() and leaf.dtype not in FLOAT8
                  and SCALE.search(key) and modules & {_module(key), _module(_module(key)[:-1])}), None)  # fmt: skip
    if scale:
        raise UserError(_quantised(name, "8-bit floats with scales", scale))
    narrow = [key for key, leaf in shapes.items() if leaf.dtype in SCALE_DTYPES]
    if narrow:
        raise UserError(_quantised(name, f"{shapes[narrow[0]].dtype} scales", narrow[0]))
    if folder and (kind := _quantisation_of(folder / "config.json")):
        raise UserError(_quantised(name, kind, "as its config.json says"))
    for library, pattern in ADAPTERS.items():
        if found := next(filter(re.compile(pattern).search, shapes), None):
            raise UserError(
                f"{name} holds the factors of an adapter, a LoRA or the like of {library} ({found}), and no merged weights; "
                f"{REMEDIES[library]}"
            )


def _is_code(leaf: Tensor) -> bool:
    """Whether an entry has the dtype of codes; position ids and counters have wider ones."""
    return leaf.dtype == torch.int32 or (leaf.dtype.itemsize == 1 and leaf.dtype != torch.bool)


def _module(key: str) -> str:
    return key[: key.rfind(".") + 1]


def _is_byte(leaf: Tensor) -> bool:
    return leaf.dtype in (torch.int8, torch.uint8)


def _quantised(name: object, kind: str, sign: str) -> str:
    return (
        f"{name} is quantised ({kind}: {sign}), and codes cannot be merged; load it without quantisation, or dequantise it, and "
        "save it in 16 bit first"
    )


def _quantisation_of(file: Path) -> str | None:
    """Return the quantisation that a model's config.json names; None if there is none."""
    try:
        settings = read_json(file)["quantization_config"]
        return str(settings.get("quant_method", "of a kind that is not named"))
    except (OSError, UserError, KeyError, TypeError, AttributeError):
        return None
