"""Masks on disk: our files, which know what they are of, and the published ones."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import xxhash
from numpy._core.numeric import _frombuffer

from command_line.build import build_method
from command_line.config import compose_config, validate
from command_line.console import user_message
from command_line.files import merge_files
from src.checkpoints.bundles import open_bundle, save_bundle, unfit_entries
from src.checkpoints.mask_files import FOLDER, MaskFiles, MaskProvenance, find_masks, load_masks, open_masks, save_masks
from src.checkpoints.published import PublishedFiles
from src.compact.form import Compact, masks_as_parts
from src.compact.packing import pack, unpack
from src.errors import UserError
from src.pickles.mask_arrays import read_arrays
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.processes import ROOT, run_script

LEGACY = ROOT / "tests" / "files" / "legacy"
SHAPES = {key: torch.empty(shape, device="meta") for key, shape in json.loads((LEGACY / "shapes.json").read_text()).items()}
PUBLISHED = MaskProvenance({"method": "Sum", "k": 100}, "p", {"MNIST": "m", "DTD": "d", "SVHN": "s"})
OURS = MaskProvenance({"method": "Sum", "k": 100}, "p", {"a": "1", "b": "2"})


def files_of(folder) -> MaskFiles:
    return MaskFiles(folder / FOLDER, PublishedFiles(folder.parent, folder.name).masks())


def flattened(masks, shapes) -> np.ndarray:
    return torch.cat([unpack(masks[key], shapes[key].numel()) for key in sorted(shapes)]).numpy()


@pytest.mark.parametrize("name", ["TALL_mask_3task.npy", "TALL_mask_3task_torch.npy"])
def test_published_masks_come_out_bit_for_bit(name):
    saved = open_masks(LEGACY / name, PUBLISHED, SHAPES)
    assert saved.lambdas is None and list(saved.masks) == list(PUBLISHED.finetuned)
    for task, expected in json.loads((LEGACY / "TALL_mask_3task_expected.json").read_text()).items():
        bits = flattened(saved.masks[task], SHAPES)
        assert int(bits.sum()) == expected["on"] and xxhash.xxh3_64_hexdigest(bits.tobytes()) == expected["xxh3"]


def published(tmp_path, masks, save=np.save):
    path = tmp_path / "TALL_mask_3task.npy"
    if save is np.save:
        np.save(path, masks, allow_pickle=True)
    else:
        save(masks, path)
    return path


@pytest.mark.parametrize("form", ["packed", "unpacked", "with the bits that fill a byte", "bool", "as of numpy 1", "MNISTVal"])
def test_forms_that_masks_were_saved_in(tmp_path, form):
    shapes = {"b": torch.empty(3, 3, device="meta"), "a": torch.empty(2, device="meta")}
    bits = {task: np.random.default_rng(seed).random(11) < 0.5 for seed, task in enumerate(PUBLISHED.finetuned)}
    change = {
        "packed": np.packbits,
        "unpacked": lambda mask: mask.astype(np.uint8),
        "with the bits that fill a byte": lambda mask: np.unpackbits(np.packbits(mask)),
        "bool": lambda mask: mask,
    }.get(form, np.packbits)
    masks = {task + "Val" * (form == "MNISTVal"): change(mask) for task, mask in bits.items()}
    path = published(tmp_path, masks)
    if form == "as of numpy 1":
        path.write_bytes(pickle.dumps(masks, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    found = open_masks(path, PUBLISHED, shapes).masks
    for task, mask in bits.items():
        assert unpack(found[task]["a"], 2).tolist() == mask[:2].tolist()  # keys sorted by name
        assert unpack(found[task]["b"], 9).tolist() == mask[2:].tolist()


def test_masks_of_another_model_or_other_tasks_are_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"of another model: an array of shape \(5865,\) for MNIST"):
        open_masks(LEGACY / "TALL_mask_3task.npy", PUBLISHED, {**SHAPES, "more": torch.empty(99, device="meta")})
    with pytest.raises(UserError, match="DTD, MNIST, SVHN, not Cars"):
        open_masks(LEGACY / "TALL_mask_3task.npy", replace(PUBLISHED, finetuned={"Cars": "c"}), SHAPES)
    with pytest.raises(UserError, match="no mask by task"):
        open_masks(published(tmp_path, np.zeros(3)), PUBLISHED, SHAPES)
    with pytest.raises(UserError, match="there are no masks at"):
        open_masks(tmp_path / "none.npy", PUBLISHED, SHAPES)


class Calls:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


@pytest.mark.parametrize("form", ["numpy", "torch", "plain"])
@pytest.mark.parametrize("name,make", [("posix.system", lambda path: Calls(__import__("os").system, f"touch {path}")),
                                       ("io.open", lambda path: Calls(open, str(path), "w"))])  # fmt: skip
def test_a_pickle_that_asks_to_call_something_is_refused_by_name_and_nothing_runs(tmp_path, form, name, make):
    victim, path = tmp_path / "victim", tmp_path / "TALL_mask_3task.npy"
    value = {"MNIST": np.packbits(np.ones(9, bool)), "DTD": make(victim)}
    if form == "numpy":
        np.save(path, value, allow_pickle=True)
    elif form == "torch":
        torch.save(value, path)
    else:
        path.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=f"{name}.*nothing in it was run"):
        read_arrays(path)
    assert not victim.exists()


class Forged(Calls):
    """A call to what the reader knows, followed by a state."""

    def __init__(self, function, arguments, state=None):
        self.made_by = (function, arguments, state) if state is not None else (function, arguments)


FORGED = {
    "pointers as objects": lambda: Forged(np.ndarray, ((), "O", b"A" * 8)),
    "a huge array": lambda: Forged(np.ndarray, ((2**40,), "u1")),
    "objects from bytes": lambda: Forged(_frombuffer, (b"A" * 8, np.dtype("O"), (1,), "C")),
    "more entries than bytes": lambda: Forged(_frombuffer, (b"A" * 8, np.dtype("u1"), (2**40,), "C")),
    "a changed function": None,  # written by hand below
}


@pytest.mark.parametrize("name", FORGED)
def test_numpy_itself_is_never_handed_to_a_pickle(tmp_path, name):
    path, before = tmp_path / "TALL_mask.npy", _frombuffer.__defaults__
    if name == "a changed function":
        function = f"c{_frombuffer.__module__}\n_frombuffer\n".encode()
        path.write_bytes(b"\x80\x02" + function + b"N}X\x0c\x00\x00\x00__defaults__Ns\x86b.")
    else:
        path.write_bytes(pickle.dumps({"MNIST": FORGED[name]()}))
    with pytest.raises(UserError, match="TALL_mask"):
        read_arrays(path)
    assert _frombuffer.__defaults__ == before


def test_a_dict_in_a_mask_file_is_no_deeper_than_its_tasks(tmp_path):
    """Sixty dicts that hold the next one twice are a thousand bytes, and 2**60 masks to whoever follows them."""
    held = {"MNIST": np.packbits(np.ones(9, bool))}
    for _ in range(60):
        held = {"a": held, "b": held}
    for content in (held, {"MNIST": [held]}, {}):
        (tmp_path / "TALL_mask.npy").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="no mask by task"):
            read_arrays(tmp_path / "TALL_mask.npy")


def test_a_dict_cannot_be_given_attributes(tmp_path):
    masks = {"MNIST": np.packbits(np.ones(9, bool))}
    (tmp_path / "TALL_mask.npy").write_bytes(pickle.dumps(Forged(OrderedDict, (list(masks.items()),), {"values": 1, "items": 2})))
    assert read_arrays(tmp_path / "TALL_mask.npy")["MNIST"].tolist() == masks["MNIST"].tolist()


@pytest.mark.parametrize("zipped", [True, False])
def test_masks_of_tensors_are_called_what_they_are(tmp_path, zipped):
    torch.save({"MNIST": torch.ones(9, dtype=torch.uint8)}, tmp_path / "mask.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="masks of tensors are not read; save them as arrays") as excinfo:
        read_arrays(tmp_path / "mask.pt")
    assert "Do not use" not in str(excinfo.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04", b"not a pickle at all"])
def test_spoiled_files_are_named(tmp_path, content):
    path = tmp_path / "TALL_mask.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="TALL_mask"):
        open_masks(path, PUBLISHED, SHAPES)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("other", b"")
    path.write_bytes(archive.getvalue())
    with pytest.raises(UserError, match="TALL_mask"):
        read_arrays(path)


def compact(tasks=("a", "b")):
    shapes = {"w": torch.empty(4, 5, device="meta")}
    return Compact(shapes, masks_as_parts({task: {"w": pack(torch.rand(20) < 0.5)} for task in tasks}), {"w": torch.ones(4, 5)})


def test_saved_masks_come_back_with_what_they_are_of(tmp_path):
    made = compact()
    path = save_masks(made, tmp_path / "masks", OURS, {"a": 0.2, "b": 0.4}, (0.2, 0.4))
    saved = open_masks(path, OURS, made.outline)
    assert saved.lambdas == {"a": 0.2, "b": 0.4} and saved.chosen_from == [0.2, 0.4]
    assert all(torch.equal(saved.masks[task]["w"], made.masks()[task]["w"]) for task in "ab")
    swapped = replace(OURS, finetuned={"b": "2", "a": "1"})
    assert list(open_masks(path, swapped, made.outline).masks) == ["b", "a"]
    assert find_masks(files_of(tmp_path), OURS, made.outline, (0.2, 0.4)).path == path


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"finetuned": {"a": "1", "c": "2"}}, "of the tasks a, b"),
        ({"finetuned": {"a": "1", "b": "other"}}, "other fine-tuned weights of b"),
        ({"pretrained": "other"}, "other pre-trained weights"),
        ({"base": {"method": "Ties", "k": 20, "agg": "sum"}}, '"Sum".*not.*"Ties"'),
    ],
)
def test_masks_that_do_not_fit_are_refused_with_the_reason(tmp_path, change, reason):
    path = save_masks(compact(), tmp_path / "masks", OURS, {"a": 0.2, "b": 0.4}, None)
    with pytest.raises(UserError, match=reason):
        open_masks(path, replace(OURS, **change), compact().outline)
    with pytest.raises(UserError, match=reason):
        find_masks(files_of(tmp_path), replace(OURS, **change), compact().outline, (0.2,))


@pytest.mark.parametrize("load", ["none.npy", "TALL_mask.npy", True])
def test_the_advice_on_masks_that_do_not_fit_can_be_followed(load, tmp_path):
    (tmp_path / "TALL_mask.npy").write_bytes(b"spoiled")
    path = load if load is True else str(tmp_path / load)
    with pytest.raises(UserError, match=r"; name others in method.load_mask=PATH, or leave it out to make them$"):
        load_masks(path, files_of(tmp_path), PUBLISHED, SHAPES, (0.2,))
    with pytest.raises(UserError, match="with model=files give" if load is True else "specify_lambda for tall_mask"):
        load_masks(path, None, PUBLISHED, SHAPES, (0.2,))
    assert load_masks(None, files_of(tmp_path), PUBLISHED, SHAPES, (0.2,)) is None


def test_a_bundle_that_does_not_say_what_its_masks_are_of_is_refused(tmp_path):
    save_bundle(compact(), {"w": torch.zeros(4, 5)}, tmp_path / "bundle", {"finetuned": {"a": "1", "b": "2"}})
    with pytest.raises(UserError, match="does not say its base, pretrained, lambdas, chosen_from"):
        open_masks(tmp_path / "bundle", OURS, compact().outline)


@pytest.mark.parametrize(
    "change",
    [
        {"base": []}, {"pretrained": 1}, {"finetuned": {"a": "1", "b": []}}, {"lambdas": {"a": 1.0}}, {"lambdas": {"a": 1.0, "b": "1"}},
        {"lambdas": [1.0, 2.0]}, {"chosen_from": 3}, {"chosen_from": [None]},
    ],
)  # fmt: skip
def test_facts_that_were_never_written_are_refused(tmp_path, change):
    facts = {**OURS.facts({"a": 0.2, "b": 0.4}, (0.2, 0.4)), **change}
    save_bundle(compact(), {"w": torch.zeros(4, 5)}, tmp_path / "bundle", facts)
    with pytest.raises(UserError, match="what this program never writes"):
        open_masks(tmp_path / "bundle", OURS, compact().outline)


@pytest.mark.parametrize(
    "part",
    [
        {"mask/w": torch.ones(2, dtype=torch.uint8)}, {"mask/w": torch.ones(3)}, {"mask/v": torch.ones(3, dtype=torch.uint8)},
        {"left/w": torch.ones(4, 2)}, {"left/w": torch.ones(4, 2), "right/w": torch.ones(3, 5)},
        {"left/w": torch.ones(5, 2), "right/w": torch.ones(2, 4)}, {"left/w": torch.ones(4), "right/w": torch.ones(4)},
        {"left/w": torch.ones(4, 2).half(), "right/w": torch.ones(2, 5)}, {"entry/w": torch.ones(20)}, {"other/w": torch.ones(4, 5)},
    ],
)  # fmt: skip
def test_entries_from_which_no_vector_is_made_are_named(tmp_path, part):
    shapes = compact().outline
    whole = {"left/w": torch.ones(4, 2), "right/w": torch.ones(2, 5)}
    assert not unfit_entries(compact()) and not unfit_entries(Compact(shapes, {"a": whole, "b": {"entry/w": torch.ones(4, 5)}}))
    unfit = Compact(shapes, {"a": part, "b": {}}, {"w": torch.ones(4, 5)})
    assert unfit_entries(unfit) == [f"a/{name}" for name in part]
    save_bundle(unfit, {"w": torch.zeros(4, 5)}, tmp_path / "bundle", {"finetuned": {"a": "1", "b": "2"}})
    with pytest.raises(UserError, match=rf"do not fit one another \(a/{next(iter(part))}"):
        open_bundle(tmp_path / "bundle")


def test_a_mask_file_cut_short_is_named(tmp_path):
    path = save_masks(compact(), tmp_path / "masks", OURS, {"a": 0.2, "b": 0.4}, (0.2, 0.4))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{path.name}.*truncated"):
        open_masks(path, OURS, compact().outline)
    whole = (LEGACY / "TALL_mask_3task.npy").read_bytes()
    (tmp_path / "TALL_mask.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"TALL_mask\.npy cannot be read.*copy or download it again"):
        open_masks(tmp_path / "TALL_mask.npy", PUBLISHED, SHAPES)


def test_masks_of_the_same_choice_are_found_before_others(tmp_path):
    made = compact()
    first = save_masks(made, tmp_path / "masks", OURS, {"a": 0.5, "b": 0.5}, None)
    chosen = save_masks(made, tmp_path / "masks", OURS, {"a": 0.2, "b": 0.4}, (0.2, 0.4))
    assert first != chosen
    assert find_masks(files_of(tmp_path), OURS, made.outline, (0.2, 0.4)).path == chosen
    assert find_masks(files_of(tmp_path), OURS, made.outline, (0.9, 1.0)).path in (first, chosen)
    with pytest.raises(UserError, match=r"no masks in .*elsewhere"):
        find_masks(files_of(tmp_path / "elsewhere"), OURS, made.outline, (0.2,))


def test_published_masks_are_told_apart_by_their_base(tmp_path):
    for name in ("TALL_mask_3task.npy", "TALL_mask_3task_use_ties.npy"):
        (tmp_path / name).write_bytes((LEGACY / "TALL_mask_3task.npy").read_bytes())
    ties = replace(PUBLISHED, base={"method": "Ties", "k": 20, "agg": "sum"})
    assert find_masks(files_of(tmp_path), PUBLISHED, SHAPES, (0.2,)).path.name == "TALL_mask_3task.npy"
    assert find_masks(files_of(tmp_path), ties, SHAPES, (0.2,)).path.name == "TALL_mask_3task_use_ties.npy"


def files(folder, tasks=2):
    pretrained, finetuned = tiny_models(tasks)
    torch.save(pretrained, folder / "base.pt")
    for name, model in finetuned.items():
        torch.save(model, folder / f"{name}.pt")
    return ("model=files", "pretrained=base.pt", f"finetuned=[{','.join(f'{name}.pt' for name in finetuned)}]")


def test_masks_of_a_bundle_serve_consensus_and_the_same_masks(tmp_path):
    inputs = files(tmp_path)
    commands = (
        ("method=tall_mask", "specify_lambda=0.4", "output_kind=bundle", "output=bundle"),
        ("method=consensus", "method.load_mask=bundle", "specify_lambda=1.0", "output=loaded.safetensors"),
        ("method=consensus", "method.mask_lambda=[0.4,0.4]", "specify_lambda=1.0", "output=made.safetensors"),
        ("method=tall_mask", "method.load_mask=bundle", "output=again", "analysis=true"),
        ("method=tall_mask", "specify_lambda=0.4", "output=first"),
    )
    for command in commands:
        done = run_script("main.py", *inputs, *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        if "load_mask" in command[1]:
            assert "masks: bundle (lambda 0.4 task0" in done.stdout
    assert (tmp_path / "loaded.safetensors").read_bytes() == (tmp_path / "made.safetensors").read_bytes()
    for task in ("task0", "task1"):
        assert (tmp_path / "first" / f"{task}.safetensors").read_bytes() == (
            tmp_path / "again" / f"{task}.safetensors"
        ).read_bytes()
    analysis = json.loads((tmp_path / "results" / "again-analysis" / "analysis.json").read_text())
    assert sum(analysis["masks"]["share"]) == pytest.approx(1) and len(analysis["layers"]) == 4
    assert {path.suffix for path in (tmp_path / "results" / "again-analysis").iterdir()} == {".json", ".png"}


@pytest.mark.parametrize(
    "options,words",
    [
        (("method=consensus", "specify_lambda=1.0"), ["mask_lambda"]),
        (("method=consensus", "specify_lambda=1.0", "method.mask_lambda=[0.4]"), ["one for each task (task0, task1)"]),
        (("method=consensus", "specify_lambda=1.0", "method.mask_lambda=0.4", "method.load_mask=x.npy"), ["one of the two"]),
        (("method=consensus", "specify_lambda=1.0", "method.prun_thre_k=-1", "method.mask_lambda=1"), ["prun_thre_k"]),
        (("method=tall_mask",), ["specify_lambda"]),
        (("method=tall_mask", "method.load_mask=True"), ["give their path: method.load_mask=PATH"]),
        (("method=tall_mask", "method.load_mask=none.npy"), ["no masks at none.npy"]),
        (("method=tall_mask", "method.load_mask=base.pt"), ["base.pt", "no file of masks"]),
        (("method=tall_mask", "specify_lambda=0.4", "method.apply_lines=True"), ["its own"]),
        (("method=tall_mask", "specify_lambda=0.4", "method.use_ties=maybe"), ["use_ties is true or false"]),
        (("method=TSVC", "specify_lambda=0.4"), ["fixed coefficient 1"]),
        (("method=TSVC", "method.rank_fraction=2"), ["rank_fraction"]),
        (("method=TSVC", "output=out.safetensors"), ["a folder"]),
        (("method=mag_masking", "method@method.base=TSVC"), ["this one makes a model for each task"]),
        (("method=tall_mask", "specify_lambda=0.4", "method.use_ties=true", "method.base.k=5"), ["give one of the two"]),
        (("method=sum", "specify_lambda=1", "finetuned={../x: task0.pt, b: task1.pt}"), ["'../x'"]),
        (("method=sum", "specify_lambda=1", "finetuned={shared: task0.pt, b: task1.pt}"), ["'shared'"]),
        (("method=iso_cts", "specify_lambda=1", "method.common_space_fraction=0"), ["common_space_fraction"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_the_user_can_fix_is_reported_in_a_sentence(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    settings = dict(option.split("=", 1) for option in (*files(tmp_path), "output=out", *options))
    config = compose_config([f"{key}={value}" for key, value in settings.items()])
    with pytest.raises(Exception) as excinfo:
        validate(config)
        merge_files(config)
    sentences = user_message(excinfo.value)
    assert sentences and all(word in " ".join(sentences) for word in words), excinfo.value
    assert not (tmp_path / "out").exists()


def test_saved_masks_are_used_where_they_are_of_the_same_choice(tmp_path):
    """load_mask: null takes masks that were chosen as this run would choose them, and no others; false takes none."""
    inputs = merge_inputs(tiny_models(2))
    method = build_method(compose_config(["method=consensus"]))
    provenance = MaskProvenance(method.mask_base, "p", dict.fromkeys(inputs.tasks, "digest"))
    chosen, grid = dict.fromkeys(inputs.tasks, 0.4), (0.2, 0.3, 0.4, 0.5, 0.6)
    compact = method.mask_method(inputs).compact(chosen)
    assert load_masks(None, files_of(tmp_path), provenance, inputs.outline, grid) is None
    save_masks(compact, tmp_path / "masks", provenance, chosen, None)
    assert load_masks(None, files_of(tmp_path), provenance, inputs.outline, grid) is None  # lambda was given, not chosen
    path = save_masks(compact, tmp_path / "masks", provenance, chosen, grid)
    masks = load_masks(None, files_of(tmp_path), provenance, inputs.outline, grid)
    assert (
        masks.path == path
        and str(path) in str(masks)
        and load_masks(False, files_of(tmp_path), provenance, inputs.outline, grid) is None
    )
    method = method.with_masks(masks.masks)
    assert method.mask_method is None
    vector = method(inputs)(1.0)["task0"]
    expected = build_method(compose_config(["method=consensus", "method.mask_lambda=0.4"]))(inputs)(1.0)["task0"]
    assert all(torch.equal(vector[key], expected[key]) for key in expected)


@pytest.mark.parametrize("threshold", [0, 1, 2, 3, 65536])
def test_consensus_of_nobody_is_the_base_and_of_more_than_all_is_nothing(threshold):
    inputs = merge_inputs(tiny_models(2))
    options = ["method=consensus", "method.mask_lambda=0.4", f"method.prun_thre_k={threshold}"]
    vector = build_method(compose_config(options))(inputs)(1.0)["task0"]
    base = build_method(compose_config(["method=sum"]))(inputs)(1.0)["task0"]
    kept = sum(int((vector[key] != 0).sum()) for key in base)
    moved = sum(int((base[key] != 0).sum()) for key in base)
    assert kept == {0: moved, 1: moved, 3: 0, 65536: 0}.get(threshold, kept) and (
        threshold != 2 or 0 < kept < moved
    )  # of two, one is on
    assert all(torch.equal(vector[key], torch.where(vector[key] != 0, base[key], 0.0)) for key in base)
