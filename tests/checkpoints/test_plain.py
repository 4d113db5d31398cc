import os

import pytest
import torch

from src.checkpoints.plain import ADAPTERS, QUANTISED, check_plain
from src.errors import UserError

CODES = torch.zeros(8, 4, dtype=torch.uint8)
MODELS = {
    "bitsandbytes (4 bit)": {
        "q.weight": CODES,
        "q.weight.absmax": torch.ones(1),
        "q.weight.quant_state.bitsandbytes__nf4": CODES,
    },
    "bitsandbytes (8 bit)": {"q.weight": CODES.to(torch.int8), "q.SCB": torch.ones(8)},
    "GPTQ or AWQ": {"q.qweight": CODES.int(), "q.qzeros": CODES.int(), "q.scales": torch.ones(4).half()},
    "8-bit floats with scales": {"q.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "scaled_fp8": torch.ones(1)},
    "EXL2": {"q.q_weight": CODES.int(), "q.q_scale": CODES.int()},
    "compressed-tensors": {"q.weight_packed": CODES.int(), "q.weight_scale": torch.ones(1)},
    "HQQ, AQLM or quanto": {"q.W_q": CODES, "q.meta": torch.ones(1)},
}
FACTORS = {
    "peft": "base_model.model.q.lora_A.weight",
    "kohya": "lora_unet_q.lora_down.weight",
    "diffusers": "unet.q.processor.to_q_lora.down.weight",
    "torchtune": "q.lora_a.weight",
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_codes_and_scales_are_refused_by_their_format(kind):
    with pytest.raises(UserError) as excinfo:
        check_plain("a.safetensors", {**MODELS[kind], "norm.weight": torch.ones(4)})
    assert kind in str(excinfo.value) and "a.safetensors is quantised" in str(excinfo.value)


@pytest.mark.parametrize(
    "kind,entries",
    [
        ("MXFP4", {"experts.gate_up_proj_blocks": CODES, "experts.gate_up_proj_scales": CODES}),
        ("8-bit floats with scales", {"q.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "q.scale_weight": torch.ones(1)}),
        (
            "8-bit floats with scales",
            {"q.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.ones(1, 1)},
        ),
        ("8-bit floats with scales", {"q.weight": torch.ones(2, 2).to(torch.float8_e5m2), "q.weight.scale": torch.ones(1)}),
        ("8-bit floats with scales", {"a.q.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "a.q.w_scale": torch.ones(1)}),
        ("a matrix of torch.int8", {"q.weight": CODES.to(torch.int8), "q.scales": torch.ones(8)}),
    ],
)
def test_codes_are_known_by_what_lies_beside_them(kind, entries):
    with pytest.raises(UserError, match=kind):
        check_plain("a", entries)


def test_scales_without_a_mantissa_are_refused():
    with pytest.raises(UserError, match="float8_e8m0fnu"):
        check_plain("a", {"q.scales": torch.zeros(4, dtype=torch.uint8).view(torch.float8_e8m0fnu)})


def test_plain_weights_are_not():
    check_plain("a", {
        "layer_scales": torch.ones(3), "logit_scale": torch.ones(()), "positions": torch.arange(77)[None], "res_blocks": torch.ones(2),
        "g_idx_like": torch.ones(2), "w": torch.ones(2, 2).bfloat16(), "mask": torch.ones(2, 2, dtype=torch.bool),
        "proj_scale": torch.ones(4), "num_blocks": torch.tensor(3, dtype=torch.int32),
    })  # fmt: skip
    check_plain("all of 8 bit, and no scales", {"w": torch.ones(2, 2).to(torch.float8_e5m2)})


@pytest.mark.parametrize("library", ADAPTERS)
def test_factors_of_an_adapter_are_called_what_they_are(library):
    with pytest.raises(UserError, match=rf"a\.safetensors holds the factors of an adapter.*of {library}"):
        check_plain("a.safetensors", {FACTORS[library]: torch.ones(2, 2), "alpha": torch.tensor(2.0)})


def test_a_config_that_says_so_is_enough(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "newest"}}')
    with pytest.raises(UserError, match=r"quantised \(newest: as its config\.json says"):
        check_plain("model", {"w": torch.ones(2, 2)}, tmp_path)
    for text in ("{", "[]", '{"quantization_config": null}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        check_plain("model", {"w": torch.ones(2, 2)}, tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")  # which is not waited for
    check_plain("model", {"w": torch.ones(2, 2)}, tmp_path)
