"""Codes of a few bits: of tensors, of what methods keep for their tasks, and in bundles."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line.build import build_method
from command_line.config import compose_config
from merging import merge
from src.checkpoints.bundles import SHARED, TASKS, bundle_size, open_bundle, save_bundle
from src.compact import quantisation
from src.compact.form import ENTRY, OFFSET, Compact
from src.compact.packing import packed_size
from src.compact.quantisation import AFFINE, BITS, CODES, PER, Quantiser, decode, decoded, encoded
from src.errors import UserError
from src.experiments.storage import storage_of
from src.state_dict import byte_size
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.processes import run_script

SHAPES = [(), (1,), (9,), (5, 12), (7, 3), (3, 2, 4, 4)]
QUANTISED = ("individual", "tall_mask", "mag_masking", "emr")
W = "blocks.0.w"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("bits", BITS)
def test_every_number_is_within_half_a_step_and_zero_is_exact(bits, per, shape):
    draw = torch.Generator().manual_seed(bits)
    for dtype, shift in ((torch.float32, 0.0), (torch.float64, 3.0), (torch.float32, -3.0)):
        values = torch.randn(shape, generator=draw, dtype=dtype) + shift
        values[torch.rand(shape, generator=draw) < 0.3] = 0
        codes, affine = Quantiser(bits, per).encode(values)
        again = decode(codes, affine, values)
        assert again.dtype == dtype and again.shape == values.shape and not again[values == 0].any()
        rows = len(affine)
        assert rows == (shape[0] if per == "channel" and len(shape) > 1 else 1)
        assert codes.shape == (bits, rows, packed_size(values.numel() // rows)) and codes.dtype == torch.uint8
        off = (again - values).abs().reshape(rows, -1).amax(1)
        assert (off <= affine[:, 0] * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("bits", BITS)
def test_all_codes_come_back(bits):
    """Numbers that are whole multiples of the step, all that there are, are exact."""
    values = torch.arange(2**bits).float() - 2 ** (bits - 1)
    codes, affine = Quantiser(bits, "layer").encode(values)
    assert affine.tolist() == [[1, 2 ** (bits - 1)]]
    assert torch.equal(decode(codes, affine, values), values)


def test_a_case_by_hand():
    values = torch.tensor([[-1.0, 0.0, 0.4, 2.0], [0.0, 6.0, 3.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    codes, affine = Quantiser(2, "channel").encode(values)
    assert affine.tolist() == [[1, 1], [2, 0], [1, 0]]
    # codes 0 1 1 3, 0 3 2 0 and 0 0 0 0: the lowest bits, then the highest, from the highest bit of a byte on
    assert codes.tolist() == [[[0b01110000], [0b01000000], [0]], [[0b00010000], [0b01100000], [0]]]
    assert decode(codes, affine, values).tolist() == [[-1, 0, 0, 2], [0, 6, 4, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("per", PER)
def test_in_slices_is_as_at_once(per, monkeypatch):
    values = torch.randn(11, 37)
    codes, affine = Quantiser(3, per).encode(values)
    whole = decode(codes, affine, values)
    monkeypatch.setattr(quantisation, "chunk_size", lambda device: 16)
    cut, same = Quantiser(3, per).encode(values)
    assert torch.equal(cut, codes) and torch.equal(same, affine) and torch.equal(decode(cut, same, values), whole)


def test_codes_stand_beside_entries_that_are_none_whatever_these_are_called():
    tree = {"codes/w": torch.randn(4, 4), "w": torch.randn(4, 4)}
    assert decoded(tree, tree)["codes/w"] is tree["codes/w"]
    half = encoded(tree, ["w"], Quantiser(8, "layer"), is_held=False)
    assert set(half.outline) == {"codes/w", "affine/w"}  # of which the first is that of the parameter's codes


def family_of(name, *options, models=None):
    method = build_method(compose_config([f"method={name}", *options]))
    inputs = merge_inputs(models or tiny_models())
    return method(inputs), dict.fromkeys(inputs.tasks, method.coefficients(len(inputs.tasks))[0]), inputs


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", QUANTISED)
def test_what_is_scored_is_made_of_the_codes(name, bits):
    exact, choice, inputs = family_of(name)
    family, _, _ = family_of(name, f"bundle.bits={bits}", "bundle.per=channel")
    compact, form = exact.compact(choice), family.compact(choice)
    assert all(torch.equal(masks[key], form.masks()[task][key]) for task, masks in compact.masks().items() for key in masks)
    quantiser = Quantiser(bits, "channel")
    for task, vector in family.at(choice).items():
        for key in (W, "head.bias"):
            codes = quantiser.encode(compact.shared[key] if compact.shared else inputs.vectors[task][key])
            numbers = decode(*codes, inputs.outline[key])
            expected = Compact(inputs.outline, {task: {ENTRY + key: numbers}}) if not compact.shared else Compact(
                inputs.outline, compact.parts, {key: numbers})  # fmt: skip
            assert torch.equal(vector[key], expected.vector(task)[key])


def test_eight_bits_are_nearly_exact():
    for name in QUANTISED:
        exact, choice, _ = family_of(name)
        family, _, _ = family_of(name, "bundle.bits=8")
        for task, vector in family.at(choice).items():
            whole = exact.at(choice)[task]
            assert (vector - whole).norm() <= 0.01 * whole.norm()


@pytest.mark.parametrize("per", PER)
def test_offsets_make_up_for_the_error_of_the_mean(per):
    """However few bits the mean has, a task's vector is within half a step of its offsets."""
    for base_bits in (2, 8):
        family, choice, inputs = family_of("individual", "bundle.bits=8", f"bundle.base_bits={base_bits}", f"bundle.per={per}")
        compact = family.compact(choice)
        mean = sum(vector[W] for vector in inputs.vectors.values()) / 3
        assert torch.equal(compact.decoded.shared[W], decode(*Quantiser(base_bits, per).encode(mean), mean))
        for task, vector in family(1.0).items():
            step = compact.parts[task][f"{AFFINE}{OFFSET}{W}"][:, :1]
            assert ((vector[W] - inputs.vectors[task][W]).abs() <= step * (0.5 + 1e-5)).all()
            assert torch.equal(vector[W], compact.decoded.shared[W] + compact.decoded.parts[task][OFFSET + W])


def test_shared_codes_are_made_once_for_all_lambdas(monkeypatch):
    counts = []
    real = Quantiser.encode
    monkeypatch.setattr(Quantiser, "encode", lambda self, values: counts.append(values.shape) or real(self, values))
    family, _, inputs = family_of("tall_mask", "bundle.bits=4")
    for coefficient in (0.2, 0.3, 0.4):
        for vector in family(coefficient).values():
            for key in vector:
                vector[key]
    assert len(counts) == len([key for key in inputs.outline if inputs.changed(key)])


@pytest.mark.parametrize(
    "options", [("method=emr",), ("method=individual",), ("method=individual", "bundle.base_bits=3")], ids=str
)
@pytest.mark.parametrize("per", PER)
def test_a_bundle_of_codes_gives_back_every_vector_and_takes_the_space_it_should(options, per, tmp_path):
    pretrained, finetuned = tiny_models()
    pretrained[W] = torch.randn(256, 304)
    for model in finetuned.values():
        model[W] = pretrained[W] + 0.1 * torch.randn(256, 304)
    name, *others = (option.removeprefix("method=") for option in options)
    family, choice, inputs = family_of(name, "bundle.bits=2", f"bundle.per={per}", *others, models=(pretrained, finetuned))
    compact = family.compact(choice)
    written = save_bundle(compact, pretrained, tmp_path / "bundle", {"finetuned": dict.fromkeys(inputs.tasks, "")})
    again, _ = open_bundle(tmp_path / "bundle")
    for task, vector in family.at(choice).items():
        assert all(torch.equal(again.vector(task)[key], vector[key]) for key in vector)
    bits_a_number = {"emr": 2 + 3 * 1}.get(name, 3 * 2) + (3 if others else 0)
    rows = 256 if per == "channel" else 1
    steps = (1 if name == "emr" else 4 if others else 3) * rows * 8
    expected = byte_size(pretrained) + bits_a_number * 256 * 304 / 8 + steps
    assert expected <= bundle_size(compact, pretrained) <= expected + 2000 and written <= expected + 20000
    assert storage_of(compact, pretrained, None).formula_bits <= 8 * (expected + 4000)


def lie_about_bits(tasks: dict, shared: dict) -> None:
    shared[CODES + W] = torch.cat([shared[CODES + W], shared[CODES + W][:1]])


def lie_about_size(tasks: dict, shared: dict) -> None:
    shared[CODES + W] = shared[CODES + W][:, :, :-1].contiguous()


def lie_about_rows(tasks: dict, shared: dict) -> None:
    shared[AFFINE + W] = shared[AFFINE + W].repeat(2, 1)


def lie_about_dtype(tasks: dict, shared: dict) -> None:
    shared[AFFINE + W] = shared[AFFINE + W].double()


def lose_steps(tasks: dict, shared: dict) -> None:
    del shared[AFFINE + W]


def lose_an_entry(tasks: dict, shared: dict) -> None:
    del shared[AFFINE + W], shared[CODES + W]


def lie_about_scale(tasks: dict, shared: dict) -> None:
    tasks["task1/scale"] = torch.ones(3)


LIES = [lie_about_bits, lie_about_size, lie_about_rows, lie_about_dtype, lose_steps, lose_an_entry, lie_about_scale]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_bundles_whose_files_do_not_fit_are_refused(lie, tmp_path):
    family, choice, inputs = family_of("emr", "bundle.bits=4")
    facts = {"finetuned": dict.fromkeys(inputs.tasks, "")}
    save_bundle(family.compact(choice), inputs.pretrained, tmp_path / "bundle", facts)
    files = [load_file(tmp_path / "bundle" / name) for name in (TASKS, SHARED)]
    lie(*files)
    for name, entries in zip((TASKS, SHARED), files):
        save_file(entries, tmp_path / "bundle" / name, {"facts": json.dumps(facts)})
    with pytest.raises(UserError, match=r"do not fit one another \(.*(blocks\.0\.w|task1/scale)"):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("options,words", [(("method=sum",), "one model"), (("method=TSVC",), "low-rank factors"),
                                           (("method=emr", "bundle.base_bits=3"), "method=individual")])  # fmt: skip
def test_what_cannot_be_quantised_is_refused_with_what_to_do(options, words):
    with pytest.raises(UserError, match=words):
        family_of(options[0].removeprefix("method="), "bundle.bits=4", *options[1:])[0](1.0)


def test_in_python_models_are_made_of_codes_too():
    pretrained, finetuned = tiny_models(2)
    merged = merge("individual", pretrained, finetuned, bundle={"bits": 2, "per": "channel"})
    move = finetuned["task1"][W] - pretrained[W]
    expected = pretrained[W] + decode(*Quantiser(2, "channel").encode(move), move)
    assert torch.equal(merged["task1"][W], expected) and not torch.equal(expected, finetuned["task1"][W])


def test_the_command_checks_the_options_and_writes_codes(tmp_path):
    pretrained, finetuned = tiny_models(2)
    save_file(pretrained, tmp_path / "base.safetensors")
    for name, model in finetuned.items():
        save_file(model, tmp_path / f"{name}.safetensors")
    files = ("main.py", "model=files", "pretrained=base.safetensors", "finetuned=[task0.safetensors,task1.safetensors]")
    done = run_script(*files, "method=individual", "bundle.bits=5", "bundle.per=row", "bundle.base_bits=1", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(f"bundle.{key}" in done.stderr for key in ("bits is 2, 3, 4, 8 or null", "per is layer or channel", "base_bits"))
    done = run_script(*files, "method=individual", "bundle.base_bits=3", cwd=tmp_path)
    assert done.returncode == 1 and "bundle.bits" in done.stderr
    bundle = ("method=individual", "bundle.bits=2", "bundle.base_bits=3", "output_kind=bundle", "output=bundle")
    done = run_script(*files, *bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "bundle" / SHARED)[CODES + W].shape == (3, 1, 3)
    assert load_file(tmp_path / "bundle" / TASKS)[f"task0/{CODES}{OFFSET}{W}"].shape == (2, 1, 3)
