"""What earlier versions wrote stays valid: digests, names in files, result names and fine-tuned weights.

The literals were printed by the program before its modules and classes got the names they have now. A literal that no
longer agrees means that users' weights are refused, or their results lie under other names.
"""

import json
import os

import pytest
import torch
import xxhash
from omegaconf import OmegaConf

from command_line.build import build_family, build_method
from command_line.config import compose_config, merge_question, setting
from command_line.paths import paths_of
from command_line.preflight import selected_tasks
from src.checkpoints.writing import save_file
from src.data.demo import tasks as demo
from src.data.registry import find_tasks
from src.data.vision import tasks as vision
from src.experiments.merge import MergeResult
from src.models.clip import Clip
from src.state_dict import digest
from tests.helpers.processes import ROOT, run_script

TASKS = {
    "Shapes": "e9ccec0d3fa7b967bd390cad0912d54e",
    "Colours": "9266eb2552626ac89beccd17e67d84c2",
    "Digits": "a2aee7e0c94b182ca40eea3e7922bcd3",
    "Letters": "4d97a076cc18097e13658cf1f8aa40eb",
    "Textures": "33010827126db14d32e857b9ab632551",
    "Counts": "884aa52cf71b6b9344dc7538ece2b6a4",
    "Positions": "06f377e0537492c24eca24bd7d0ebdb8",
    "Arrows": "4cb787c192303b9879e2fa6734c6e6e7",
    "MNIST": "e383a97b23886fe917c11abaefc7a4ad",
    "Cars": "2645041860d4c35ff8ff7a6282a91d86",
    "FER2013": "f651085e339ed98452eb18f8ee7bab49",
}
IDENTITY, PRETRAINED = "f90817315ecc124c753a8d18b1c8509c", "4236befd13c5240b39d1e7bd04df39b5"
SUM, TIES = {"method": "Sum", "k": 100}, {"method": "Ties", "k": 20, "agg": "sum"}
# The header of the demo's weights for Shapes, as the program fine-tuned them.
MADE_FROM = (
    '{"mode": {"linearized": false, "lora": null, "trains": "all"}, "pretrained": "4236befd13c5240b39d1e7bd04df39b5", '
    '"recipe": {"batch_size": 128, "epochs": 3, "lr": 0.0008, "max_grad_norm": 1.0, "num_grad_accumulation": 1, "seed": 0, '
    '"warmup_steps": 10, "weight_decay": 0.1}, "task": "e9ccec0d3fa7b967bd390cad0912d54e"}'
)


def digest_of(facts: list) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_defined_by_the_same_digest(name):
    (task,) = find_tasks([name])
    assert task.definition == TASKS[name]


def test_the_demos_model_has_the_same_digests():
    config = compose_config([])
    family = build_family(config, paths_of(config), torch.device("cpu"))
    assert isinstance(family, Clip) and config.model.family._target_ == "src.models.clip.Clip"
    assert (family.identity, digest(family.pretrained.items())) == (IDENTITY, PRETRAINED)


def test_drawn_examples_are_known_by_the_same_state():
    (task,) = find_tasks(["Digits"])
    assert task.source.fingerprint("train") == f"38b4344b900d150e63cd69319890eed1 {torch.__version__}"


def test_all_image_tasks_and_their_drawn_splits_have_the_same_digests(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "0")
    definitions = [(name, find_tasks([name])[0].definition) for name in [*demo.tasks(), *vision.SPECS]]
    splits = [task.fingerprint(split) for task in demo.tasks().values() for split in ("train", "val", "test")]
    assert (len(definitions), digest_of(definitions)) == (29, "cfbbade36021330883087a3748440426")
    assert (len(splits), digest_of(splits)) == (24, "a894e3d161b6d79096fd0043ef703adb")


def test_a_folder_of_images_is_known_by_the_same_fingerprint(tmp_path):
    for subset in ("train", "test"):
        for file in (tmp_path / subset / name / f"{number}.png" for name in ("cat", "dog") for number in range(2)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"no image is opened")
            os.utime(file, (1_600_000_000, 1_600_000_000))
    (task,) = find_tasks(["Pets"], tmp_path, {"Pets": {"source": str(tmp_path), "templates": ["a {}."]}})
    assert task.definition == "68401ad9e15280be0f6ffb24ded6c9be"
    assert [task.fingerprint(split) for split in ("train", "val", "test")] == [
        "f550480e551a9391e87636366e4fd7c2",
        "696d3a86350b8030190d94924eca265a",
        "5466673c546edce6cee4ee7c2f03e78d",
    ]


@pytest.mark.parametrize(
    "overrides,base", [(["method=tall_mask"], SUM), (["method=tall_mask", "method.use_ties=True"], TIES),
                       (["method=consensus"], SUM), (["method=consensus", "method.use_ties=True"], TIES)],
)  # fmt: skip
def test_mask_files_name_their_base_by_the_same_words(overrides, base):
    assert build_method(compose_config(overrides)).mask_base == base


def test_a_result_has_the_same_name():
    expected = {
        "model": "ViT-demo",
        "finetuning_mode": {"_target_": "src.models.modes.Mode", "name": "standard", "files": "nonlinear", "trains": "all",
                            "linearized": "never", "lora": None},
        "tasks": ["Shapes", "Colours"],
        "precision": "fp32",
        "method": {"_target_": "src.merging.sum.Sum", "k": 100, "grid": [n / 10 for n in range(1, 11)],
                   "apply_lines": False, "depth_pattern": None},
        "specify_lambda": None,
        "n_eval_points": None,
        "search": "grid",
    }  # fmt: skip
    config = compose_config(["num_tasks=2"])
    question = {**setting(config, [task.name for task in selected_tasks(config)]), **merge_question(config)}
    assert question == expected and list(question) == list(expected)  # their order is part of the name, too
    figures = {"coefficients": {}, "curve": [], "grid_size": 0, "scores": {}, "summary": {}, "bytes_stored": 0}
    about = {"config": {}, "choices": {}, "lineage": {"pretrained": PRETRAINED}, "benchmark": "demo", "seconds": 0.0}
    result = MergeResult(title="ViT-demo, 2 tasks, sum", question=question, **about, **figures)
    assert result.name == "ViT-demo-2-tasks-sum-d866ecbd"


def test_methods_and_modes_are_found_at_the_places_that_results_name():
    """`_target_` is part of a result's name, so the modules of methods and modes stay where they are."""
    targets = {path.stem: OmegaConf.load(path).get("_target_") for path in (ROOT / "config" / "method").glob("*.yaml")}
    assert targets.items() >= {
        "TSVC": "src.merging.tsvc.TSVC", "TSVM": "src.merging.tsvm.TSVM", "average": "src.merging.average.Average",
        "emr": "src.merging.emr.EMR", "individual": "src.merging.individual.Individual", "cg": "src.merging.cg.ConjugateGradient", "fisher": "src.merging.fisher.Fisher", "given": "src.merging.given.Given",
        "interpolate": "src.merging.interpolate.Interpolate", "regmean": "src.merging.regmean.RegMean",
        "consensus": "src.merging.consensus.Consensus", "iso_c": "src.merging.iso_c.IsoC",
        "iso_cts": "src.merging.iso_cts.IsoCTS", "mag_masking": "src.merging.mag_masking.MagMasking",
        "single_task": "src.merging.single_task.SingleTask", "sum": "src.merging.sum.Sum",
        "tall_mask": "src.merging.tall_mask.TallMask", "ties": "src.merging.ties.Ties",
        "zeroshot": "src.merging.zeroshot.ZeroShot",
    }.items()  # fmt: skip


def test_weights_fine_tuned_by_an_earlier_version_are_accepted_and_called_the_demos(tmp_path):
    config = compose_config([f"cache_dir={tmp_path / 'cache'}"])
    family = build_family(config, paths_of(config), torch.device("cpu"))
    weights = {key: leaf * 1.01 if key.startswith("model.visual") else leaf for key, leaf in family.pretrained.items()}
    path = tmp_path / "checkpoints" / "ViT-demo" / "ShapesVal" / "nonlinear_finetuned.safetensors"
    save_file(weights, path, {"task": "Shapes", "model": "ViT-demo", "made_from": MADE_FROM})
    before = path.stat().st_mtime_ns
    done = run_script("main.py", "DATASETS=[Shapes]", "specify_lambda=0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(file.read_text()) for file in (tmp_path / "results").glob("*.json"))
    assert record["benchmark"] == "demo" and path.stat().st_mtime_ns == before


DRAWN = {  # of the first eight training images of each task: labels, and the mean of all pixels
    "Shapes": ([0, 1, 3, 8, 9, 6, 4, 5], [128.0, 137.8, 145.3, 161.4, 123.4, 134.0, 149.2, 103.7]),
    "Colours": ([5, 9, 0, 1, 9, 4, 7, 8], [36.0, 89.0, 61.0, 154.7, 59.9, 49.0, 115.7, 83.9]),
    "Digits": ([6, 1, 2, 3, 1, 2, 8, 0], [76.3, 33.0, 74.4, 84.5, 52.8, 63.5, 85.3, 86.1]),
    "Letters": ([18, 16, 17, 14, 1, 12, 6, 6], [193.5, 196.2, 218.4, 199.2, 186.7, 198.1, 159.7, 187.7]),
    "Textures": ([2, 1, 4, 0, 3, 4, 3, 4], [110.6, 86.5, 101.5, 114.9, 112.3, 80.0, 131.5, 104.6]),
    "Counts": ([5, 6, 1, 7, 4, 4, 0, 4], [25.7, 196.5, 208.9, 62.1, 240.2, 223.3, 221.6, 191.9]),
    "Positions": ([3, 2, 4, 0, 8, 2, 6, 6], [49.5, 204.3, 37.9, 191.6, 187.5, 224.6, 29.9, 216.8]),
    "Arrows": ([4, 5, 0, 6, 3, 6, 0, 0], [153.6, 146.8, 119.6, 134.9, 154.2, 131.0, 137.2, 139.0]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_demos_images_are_drawn_as_before(name):
    """Whoever changes the images on purpose changes `demo.DRAWING_VERSION`, so that images are decoded again."""
    (drawn,) = (drawn for drawn in demo.DRAWN_TASKS if drawn.name == name)
    images, labels = drawn.images("train", 8)
    expected = DRAWN[name]
    assert labels.tolist() == expected[0]
    assert images.float().mean((1, 2, 3)).tolist() == pytest.approx(expected[1], abs=0.1)  # 0.05 is rounded away above
