"""Published sets of checkpoints: found as they lie, downloaded, converted."""

import contextlib
import functools
import importlib
import inspect
import os
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import download_checkpoints
from command_line.config import compose_config
from command_line.paths import paths_of
from src.checkpoints.conversion import convert
from src.checkpoints.mask_files import FOLDER, MaskFiles, MaskProvenance, find_masks
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.published import PublishedFiles, finetuned_path
from src.downloads.drive import fetch_folder
from src.errors import UserError
from src.pickles.state_dicts import read_contents
from tests.conftest import run_fresh
from tests.helpers.foreign_pickles import ImageEncoder, linearized_entries, save_encoder, save_head, tiny_clip
from tests.helpers.hub_server import Hub, serving

MODEL = "ViT-B-32"


def published_set(folder, tasks=("MNIST", "SVHN"), module="src.models.modeling"):
    """As the authors lay it out, tiny: encoders, heads, the model they start from, masks."""
    model = folder / "single_task" / MODEL
    for task in tasks:
        (model / f"{task}Val").mkdir(parents=True)
        torch.save(ImageEncoder(tiny_clip(len(task))).state_dict(), model / f"{task}Val" / "nonlinear_finetuned.pt")
        save_head(model / f"head_{task}Val.pt", module)
    save_encoder(model / f"{tasks[0]}Val" / "nonlinear_zeroshot.pt", module)
    for name in (MODEL, "ViT-L-14"):
        masks = folder / "tall_masks" / name / "TALL_mask_14task.npy"
        masks.parent.mkdir(parents=True)
        np.save(masks, {task: np.packbits(np.ones(9, np.uint8)) for task in tasks}, allow_pickle=True)
    return model


def test_files_are_found_below_any_folder_of_the_models_name(tmp_path):
    model = published_set(tmp_path / "nik-dim" / "tall_masks")
    published = PublishedFiles(tmp_path, MODEL)
    assert published.finetuned("MNIST") == model / "MNISTVal" / "nonlinear_finetuned.pt"
    assert published.head("SVHN") == model / "head_SVHNVal.pt"
    assert published.zeroshot() == model / "MNISTVal" / "nonlinear_zeroshot.pt"
    assert published.masks() == [tmp_path / "nik-dim/tall_masks/tall_masks" / MODEL / "TALL_mask_14task.npy"]
    assert published.finetuned("Cars") is published.finetuned("MNIST", "linear") is published.head("NIST") is None
    assert published.missing(["MNIST", "Cars"]) == {"encoder": ["Cars"], "head": ["Cars"]}
    assert PublishedFiles(tmp_path, "ViT-B-16").zeroshot() is None and PublishedFiles(tmp_path / "none", MODEL).masks() == []


def test_our_own_places_come_first_and_safetensors_before_pickles(tmp_path):
    published_set(tmp_path / "a")
    own = tmp_path / MODEL
    for name in ("MNISTVal/finetuned.pt", "SVHN/finetuned.pt", "zeroshot.pt", "head_MNIST.pt", "MNISTVal/linear-2_finetuned.pt"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    published = PublishedFiles(tmp_path, MODEL)
    assert (
        published.finetuned("MNIST") == own / "MNISTVal/finetuned.pt" and published.finetuned("SVHN") == own / "SVHN/finetuned.pt"
    )
    assert published.zeroshot() == own / "zeroshot.pt" and published.head("MNIST") == own / "head_MNIST.pt"
    assert published.finetuned("MNIST", "linear-2") == own / "MNISTVal/linear-2_finetuned.pt"
    for suffix in (".pt", ".safetensors"):
        (own / f"MNISTVal/nonlinear_finetuned{suffix}").touch()
        assert PublishedFiles(tmp_path, MODEL).finetuned("MNIST").suffix == suffix
    assert finetuned_path(tmp_path, MODEL, "MNIST") == PublishedFiles(tmp_path, MODEL).finetuned("MNIST")


def test_linked_folders_are_looked_through_once(tmp_path):
    published_set(tmp_path / "disk")
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "models" / MODEL).symlink_to(tmp_path / "disk" / "single_task" / MODEL)
    (tmp_path / "models" / "deep" / "up").symlink_to(tmp_path / "models")
    published = PublishedFiles(tmp_path / "models", MODEL)
    assert published.finetuned("SVHN") == tmp_path / "models" / MODEL / "SVHNVal" / "nonlinear_finetuned.pt"
    assert published.zeroshot() == tmp_path / "models" / MODEL / "MNISTVal" / "nonlinear_zeroshot.pt"


def test_main_reads_checkpoints_where_the_download_put_them(tmp_path):
    model = published_set(tmp_path / "nik-dim" / "tall_masks")
    config = compose_config([f"model_location={tmp_path}"])
    config.model.name = MODEL
    assert paths_of(config).finetuned("SVHN") == model / "SVHNVal" / "nonlinear_finetuned.pt"
    assert paths_of(config).finetuned("Cars") == tmp_path / MODEL / "CarsVal" / "nonlinear_finetuned.safetensors"
    provenance = MaskProvenance({"method": "Sum", "k": 100}, "p", {"MNIST": "m", "SVHN": "s"})
    masks = find_masks(
        MaskFiles(tmp_path / MODEL / FOLDER, PublishedFiles(tmp_path, MODEL).masks()),
        provenance,
        {"w": torch.empty(3, 3, device="meta")},
        (0.2,),
    )
    assert masks.path == tmp_path / "nik-dim/tall_masks/tall_masks" / MODEL / "TALL_mask_14task.npy"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    published_set(tmp_path / "remote")
    files = {str(path.relative_to(tmp_path / "remote")): path.read_bytes() for path in (tmp_path / "remote").rglob("*.*")}
    shutil.rmtree(tmp_path / "remote")
    with serving(Hub()) as hub:
        hub.add("nik-dim/tall_masks", files)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def test_checkpoints_are_downloaded_opened_and_what_is_missing_is_listed(tmp_path, hub):
    command = ("download_checkpoints.py", f"--model={MODEL}", "--kind=checkpoints")
    done = run_fresh(*command, cwd=tmp_path)
    assert done.returncode == 1 and "4 of 40 encoders and heads are there, and all of them open" in done.stdout, done.stderr
    assert "no encoder of ViT-B-32 was found for Cars, DTD, EuroSAT, GTSRB, RESISC45" in done.stderr
    assert done.stderr.count("error:") == 2 and "MNISTVal/nonlinear_zeroshot.pt" in done.stdout
    assert (
        PublishedFiles(tmp_path / "checkpoints", MODEL).head("MNIST")
        and not PublishedFiles(tmp_path / "checkpoints", MODEL).masks()
    )
    sent, (victim,) = hub.sent, (tmp_path / "checkpoints").rglob("SVHNVal/*.pt")
    size = victim.stat().st_size
    victim.unlink()
    again = run_fresh(*command, cwd=tmp_path)
    assert "4 of 40" in again.stdout and hub.sent == sent + size


def test_masks_are_downloaded_and_read(tmp_path, hub):
    done = run_fresh("download_checkpoints.py", f"--model={MODEL}", "--kind=tall_masks", "--model-location=models", cwd=tmp_path)
    assert done.returncode == 0 and "TALL_mask_14task.npy: masks of 2 tasks" in done.stdout, done.stderr
    assert [path for path, _ in hub.requests] == ["tall_masks/ViT-B-32/TALL_mask_14task.npy"]


def drive(monkeypatch, download_folder):
    """A gdown of which a call that the real one would refuse is refused, where it is installed."""
    with contextlib.suppress(ImportError):
        download_folder.__signature__ = inspect.signature(importlib.import_module("gdown").download_folder)
    gdown = types.ModuleType("gdown")

    def checked(**options):
        inspect.signature(download_folder).bind(**options)
        return download_folder(**options)

    gdown.download_folder = functools.update_wrapper(checked, download_folder)
    monkeypatch.setitem(sys.modules, "gdown", gdown)


def test_the_drive_is_asked_through_gdown_and_what_it_refuses_is_explained(tmp_path, monkeypatch):
    asked = []

    def recent(id, output, resume=False, retries=0, timeout=None):
        asked.append({"id": id, "output": output, "resume": resume, "retries": retries, "timeout": timeout})

    drive(monkeypatch, recent)
    fetch_folder("folder-id", tmp_path)
    assert asked[0]["id"] == "folder-id" and asked[0]["output"] == str(tmp_path) and asked[0]["resume"] is True
    assert asked[0]["timeout"]
    older = types.ModuleType("gdown")
    older.download_folder = lambda id, output, resume, retries: asked.append(id)
    monkeypatch.setitem(sys.modules, "gdown", older)
    fetch_folder("without-timeout", tmp_path)
    assert asked[1] == "without-timeout"

    class DownloadError(Exception):
        pass

    def refuse(**_):
        raise DownloadError("Failed to download the following files:\n- a.pt")

    drive(monkeypatch, refuse)
    with pytest.raises(UserError, match=r"limits how often.*goes on where it stopped.*folders/folder-id in a browser.*put what"):
        fetch_folder("folder-id", tmp_path)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match="needs gdown: pip install"):
        fetch_folder("folder-id", tmp_path)


def test_what_came_from_the_drive_is_compared_with_its_checksums(tmp_path, monkeypatch):
    def give(*, output, **_):
        published_set(tmp_path / "remote")
        shutil.copytree(tmp_path / "remote" / "single_task" / MODEL, output)
        for name in ("SVHNVal/nonlinear_finetuned.pt", "head_MNISTVal.pt"):
            spoil(tmp_path / "models" / MODEL / name)

    drive(monkeypatch, give)
    arguments = ["--source=drive", f"--model={MODEL}", "--kind=checkpoints", f"--model-location={tmp_path / 'models'}"]
    monkeypatch.setattr(sys, "argv", ["download_checkpoints.py", *arguments])
    with pytest.raises(UserError, match=r"head_MNISTVal\.pt is damaged: the bytes of .*data/0 are not") as excinfo:
        download_checkpoints.main()
    assert len(excinfo.value.problems) == 2 and "SVHNVal" in excinfo.value.problems[0]


def spoil(path):
    """Bytes in a tensor, of which neither names nor shapes say anything."""
    with zipfile.ZipFile(path) as archive:
        name, *_ = (name for name in archive.namelist() if name.endswith("data/0"))
        start = path.read_bytes().index(archive.read(name))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(8))
    open_checkpoint(path)


def test_all_masks_that_cannot_be_read_are_named(tmp_path, capsys):
    published_set(tmp_path)
    masks = tmp_path / "tall_masks" / MODEL
    for name in ("TALL_mask_1task.npy", "TALL_mask_2task.npy"):
        (masks / name).write_bytes(b"no mask")
    with pytest.raises(UserError) as excinfo:
        download_checkpoints.check_masks(PublishedFiles(tmp_path, MODEL), MODEL)
    assert len(excinfo.value.problems) == 2 and "14task.npy: masks of 2 tasks" in capsys.readouterr().out


def test_a_second_conversion_reads_nothing_of_its_source(tmp_path, monkeypatch):
    finetuned, reference = (dict(ImageEncoder(tiny_clip(seed)).named_parameters()) for seed in (0, 1))
    source, target = tmp_path / "linear_finetuned.pt", tmp_path / "linear_finetuned.safetensors"
    torch.save(linearized_entries(finetuned, reference), source)
    zeroshot = tmp_path / "linear_zeroshot.safetensors"
    parsed = []
    monkeypatch.setattr("src.checkpoints.reading.read_contents", lambda *args: parsed.append(args) or read_contents(*args))
    assert convert(source, target) == [zeroshot, target] and len(parsed) == 1
    monkeypatch.setattr(Path, "open", None)
    assert convert(source, target) == [] and len(parsed) == 1
    monkeypatch.undo()
    zeroshot.unlink()
    assert convert(source, target) == [zeroshot]
    os.utime(source, (1, 1))  # touched, and the same: its contents tell
    assert convert(source, target) == []
    torch.save(linearized_entries(reference, finetuned), source)
    with pytest.raises(UserError, match="was not made from"):
        convert(source, target)


def converted(folder, *arguments):
    return run_fresh("convert_checkpoints.py", str(folder), *arguments, cwd=folder)


def test_a_folder_is_converted_once_in_its_layout(tmp_path):
    model = published_set(tmp_path / "set")
    finetuned, reference = (dict(ImageEncoder(tiny_clip(seed)).named_parameters()) for seed in (0, 1))
    torch.save(linearized_entries(finetuned, reference), model / "SVHNVal" / "linear_finetuned.pt")
    (model / "broken.pt").write_bytes(b"PK\x03\x04 cut")
    torch.save({"a": torch.ones(1), "trap": os.system}, model / "trap.pt")
    before = {path: path.read_bytes() for path in model.rglob("*.pt")}
    done = converted(tmp_path / "set", "--output", str(tmp_path / "out"))
    assert done.returncode == 1 and done.stderr.count("error:") == 2, done.stderr
    assert "broken.pt cannot be read" in done.stderr and "trap.pt" in done.stderr and "posix.system" in done.stderr
    out = tmp_path / "out" / "single_task" / MODEL
    assert {str(path.relative_to(out)) for path in out.rglob("*.*")} == {
        "MNISTVal/nonlinear_finetuned.safetensors", "MNISTVal/nonlinear_zeroshot.safetensors", "head_MNISTVal.safetensors",
        "SVHNVal/nonlinear_finetuned.safetensors", "head_SVHNVal.safetensors",
        "SVHNVal/linear_finetuned.safetensors", "SVHNVal/linear_zeroshot.safetensors",
    }  # fmt: skip
    for path in out.rglob("*.safetensors"):
        opened = open_checkpoint(path)
        source = model / path.relative_to(out).with_suffix(".pt")
        expected = open_checkpoint(source) if source.exists() else reference
        assert set(opened) == set(expected) and all(torch.equal(opened[key], expected[key]) for key in opened)
    assert {path: path.read_bytes() for path in model.rglob("*.pt")} == before
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = converted(tmp_path / "set", "--output", str(tmp_path / "out"))
    assert again.stdout.count("converted already") == 6 and {path: path.stat().st_mtime_ns for path in times} == times


def test_originals_are_removed_only_when_asked_and_only_if_theirs_was_written(tmp_path):
    model = published_set(tmp_path / "set")
    mine = model / "SVHNVal" / "nonlinear_finetuned.safetensors"
    shutil.copy(model / "head_SVHNVal.pt", mine)
    spoil(model / "head_MNISTVal.pt")
    done = converted(tmp_path / "set", "--remove")
    assert done.returncode == 1 and f"{mine} is there and was not made from" in done.stderr
    assert "head_MNISTVal.pt is damaged" in done.stderr
    assert sorted(path.name for path in model.rglob("*.pt")) == ["head_MNISTVal.pt", "nonlinear_finetuned.pt"]
    assert mine.read_bytes()[:2] == b"PK" and (model / "head_SVHNVal.safetensors").exists()
    assert (tmp_path / "set" / "tall_masks" / MODEL / "TALL_mask_14task.npy").exists()


def test_an_original_whose_conversion_is_another_is_kept_and_not_called_removed(tmp_path):
    model = published_set(tmp_path / "set")
    source, target = (model / f"head_SVHNVal{suffix}" for suffix in (".pt", ".safetensors"))
    convert(source, target)
    target.write_bytes(target.read_bytes()[:-1] + b"\x01")  # a bit of the last number
    done = converted(tmp_path / "set", "--remove")
    assert done.returncode == 1 and source.exists() and f"{source} is kept" in done.stderr
    removed = [line for line in done.stdout.splitlines() if line.endswith(" removed")]
    assert len(removed) == 4 and f"{source} removed" not in removed


def test_a_folder_that_is_not_there_is_named(tmp_path):
    done = run_fresh("convert_checkpoints.py", "nowhere", cwd=tmp_path)
    assert done.returncode == 1 and "there is no folder nowhere" in done.stderr


BUCKET_FILES = {
    ("paws", "nonlinear"): "p3/paws/google-t5-large-lm-adapt/2023-01-02-03-04-05/checkpoints/checkpoint_1299.pt",
    ("rte", "nonlinear"): "p3/rte/google-t5-large-lm-adapt/full_model/2023-01-02-03-04-05/checkpoints/checkpoint_399.pt",
    ("paws", "ia3"): "p3/paws/google-t5-large-lm-adapt/ia3/2023-01-02-03-04-05/checkpoints/checkpoint_2699.pt",
}
DECOYS = (
    "p3/paws/google-t5-large-lm-adapt/2023-01-02-03-04-05/checkpoints/checkpoint_1399.pt",
    "p3/paws/google-t5-xl-lm-adapt/2023-01-02-03-04-05/checkpoints/checkpoint_1299.pt",
    "p3/quail/google-t5-large-lm-adapt/ia3/2023-01-02-03-04-05/checkpoints/checkpoint_999.pt",
    "merging/p3/p3_eight_qa/google-t5-large-lm-adapt/full_model/average/merged_model.pt",
)


def test_checkpoints_of_mats_are_found_as_they_lie_in_their_bucket(tmp_path, monkeypatch, capsys):
    """Those that were merged: of the task, all weights or vectors, and the step of the best validation score."""
    monkeypatch.setattr(sys, "argv", ["x", "--model=t5-large-lm-adapt", f"--model-location={tmp_path}"])
    with pytest.raises(UserError, match=r"copy gs://\S+/exp_out/p3 to \S+/exp_out/p3 .* method=given method.weights=FILE"):
        download_checkpoints.main()
    for name in (*BUCKET_FILES.values(), *DECOYS):
        path = tmp_path / "exp_out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"transformer.shared.weight": torch.ones(2, 2)}, path)
    published = PublishedFiles(tmp_path, "t5-large-lm-adapt")
    for (task, mode), name in BUCKET_FILES.items():
        assert published.finetuned(task, mode) == tmp_path / "exp_out" / name
    assert published.finetuned("quail") is published.finetuned("rte", "ia3") is published.finetuned("paws", "linear") is None
    assert PublishedFiles(tmp_path, "t5-base").finetuned("paws") is None
    download_checkpoints.main()
    assert (
        "3 checkpoints are there, and all of them open: paws (nonlinear), rte (nonlinear), paws (ia3)" in capsys.readouterr().out
    )
    own = finetuned_path(tmp_path, "t5-large-lm-adapt", "paws")
    own.parent.mkdir(parents=True)
    own.touch()
    assert PublishedFiles(tmp_path, "t5-large-lm-adapt").finetuned("paws") == own  # ours comes first


def test_the_kind_of_files_of_image_models_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", f"--model={MODEL}"])
    with pytest.raises(UserError, match="--kind is needed: checkpoints or tall_masks"):
        download_checkpoints.main()
