"""The program as a user runs it, end to end on the demo."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from src.checkpoints.opening import open_checkpoint
from tests.helpers.notebooks import clone, execute
from tests.helpers.processes import run_script


def records(folder) -> dict[str, dict]:
    return {record["name"]: record for record in map(json.loads, (path.read_text() for path in folder.glob("results/*.json")))}


def record_of(folder, method: str) -> dict:
    (found,) = (r for name, r in records(folder).items() if re.fullmatch(rf"ViT-demo-8-tasks-{method}-\w{{8}}", name))
    return found


def test_merging_improves_on_zeroshot_and_stays_below_finetuned(demo):
    done = run_script("main.py", "-m", "method=zeroshot,average", cwd=demo)
    assert done.returncode == 0, done.stderr
    means = {method: {kind: figure["mean"] for kind, figure in record_of(demo, method)["means"].items()}
             for method in ("sum", "average", "zeroshot")}  # fmt: skip
    assert 0.25 <= means["sum"]["zeroshot"] <= 0.65 and means["sum"]["finetuned"] >= 0.9
    assert means["zeroshot"]["merged"] == means["sum"]["zeroshot"]
    assert means["zeroshot"]["merged"] < means["average"]["merged"] <= means["sum"]["merged"] < means["sum"]["finetuned"]


def test_the_first_run_shows_a_table_and_writes_a_record_and_a_figure(demo):
    printed = (demo / "first.txt").read_text()
    for word in ("zero-shot", "fine-tuned", "merged", "normalised", "Arrows", "mean", "accuracy.png"):
        assert word in printed
    record = record_of(demo, "sum")
    assert record["coefficient"] in [point["coefficient"] for point in record["validation"]]
    best = max(point["objective"] for point in record["validation"])
    assert record["coefficient"] == next(p["coefficient"] for p in record["validation"] if p["objective"] == best)
    assert (
        set(record["lineage"]) == {"model", "pretrained", "finetuned", "heads", "heads_from", "data", "recipes", "tasks"}
        and len(record["lineage"]["finetuned"]) == 8
    )
    assert record["bytes_stored"] > 3e6 and record["seconds"] > 0 and record["peak_memory_bytes"]["resident"] > 1e8
    figure = demo / "results" / record["name"] / "accuracy.png"
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_rerun_computes_no_score_again_and_repeats_its_result(demo):
    scores = {path.name: path.stat().st_mtime_ns for path in (demo / "cache" / "scores").iterdir()}
    weights = {path: path.stat().st_mtime_ns for path in demo.glob("checkpoints/*/*Val/*.safetensors")}
    before = record_of(demo, "sum")
    done = run_script("main.py", "n_eval_points=null", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (demo / "cache" / "scores").iterdir()} == scores
    assert {path: path.stat().st_mtime_ns for path in demo.glob("checkpoints/*/*Val/*.safetensors")} == weights and len(
        weights
    ) == 8
    after = record_of(demo, "sum")
    for kind in ("coefficient", "validation", "test", "means", "lineage"):
        assert after[kind] == before[kind]


def test_a_wider_grid_computes_only_what_is_new(demo):
    before = len(list((demo / "cache" / "scores").iterdir()))
    done = run_script("main.py", "method.grid=[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0,1.05]", cwd=demo)
    assert done.returncode == 0, done.stderr
    new = len(list((demo / "cache" / "scores").iterdir())) - before
    assert new in (8, 16)  # eight tasks at 1.05 on validation, and on test if it won


def test_lines_and_ties_run_as_typed_and_draw_the_scale_by_depth(demo):
    done = run_script("main.py", "method=ties", "method.k=20", "method.apply_lines=True", "num_tasks=2", cwd=demo)
    assert done.returncode == 0, done.stderr
    (record,) = (r for name, r in records(demo).items() if name.startswith("ViT-demo-2-tasks-ties-LiNeS"))
    scales = list(record["scale_by_depth"].values())
    assert len(scales) == 9 and scales[0] == scales[1] and scales == sorted(scales)
    assert (demo / "results" / record["name"] / "scale_by_depth.png").exists()
    assert record["question"]["tasks"] == ["Shapes", "Colours"]


def test_coefficients_are_learned_from_unlabelled_images_and_the_record_says_so(demo):
    options = ("method=adamerging", "method.iterations=2", "num_tasks=2")
    for split in ("test", "val"):
        done = run_script("main.py", *options, f"method.split={split}", cwd=demo)
        assert done.returncode == 0, done.stderr
        (record,) = (r for r in records(demo).values() if r["question"]["method"].get("split") == split)
        assert record["validation"] == [] and record["coefficient"] == 1
        (note,) = (note for note in record["notes"] if f"unlabelled {split} examples" in note)
        assert ("transductive" in note) == (split == "test") and re.search(r"Shapes 0\.(29|30)", note)
        assert not list((demo / "cache" / "solved").glob("*"))


def test_a_single_task_reports_target_control_and_trade_off(demo):
    options = ("method=single_task", "method.task_index=1", "method.apply_lines=True", "DATASETS=[Digits,Arrows]")
    done = run_script("main.py", *options, cwd=demo)
    assert done.returncode == 0, done.stderr
    (record,) = (r for name, r in records(demo).items() if "single-task-LiNeS" in name)
    assert "target Arrows" in done.stdout and "trade-off" in done.stdout
    assert record["validation"][0]["coefficient"] == 1.0 and len(record["validation"]) == 11
    merged = record["test"]["Arrows"]["merged"]["accuracy"]
    assert record["summary"]["target Arrows"] == merged > record["test"]["Arrows"]["zeroshot"]["accuracy"]


def test_a_specified_coefficient_is_not_searched(demo):
    done = run_script("main.py", "specify_lambda=0.25", "num_tasks=2", "output=merged.safetensors", cwd=demo)
    assert done.returncode == 0, done.stderr
    (record,) = (r for r in records(demo).values() if r["question"]["specify_lambda"] == 0.25)
    assert record["coefficient"] == 0.25 and record["validation"] == []
    merged = load_file(demo / "merged.safetensors")
    tuned = [
        open_checkpoint(demo / f"checkpoints/ViT-demo/{task}Val/nonlinear_finetuned.safetensors")
        for task in ("Shapes", "Colours")
    ]
    key = "model.visual.proj"
    text = "model.token_embedding.weight"  # frozen, so any fine-tuned file has the pre-trained values
    assert torch.equal(merged[text], tuned[0][text]) and merged.keys() == set(tuned[0])
    assert not torch.equal(merged[key], tuned[0][key])


def test_an_output_destroys_no_weights_that_a_scored_run_reads(demo, tmp_path):
    for name, task in (("base", "Shapes"), ("digits", "Digits")):
        shutil.copy(demo / f"checkpoints/ViT-demo/{task}Val/nonlinear_finetuned.safetensors", tmp_path / f"{name}.safetensors")
    (tmp_path / "digits_unfinished.safetensors").write_text("somebody else's")
    before = (tmp_path / "base.safetensors").read_bytes()
    options = ("DATASETS=[Digits]", f"finetuned={{Digits: {tmp_path}/digits.safetensors}}", "specify_lambda=1")
    for name in ("base", "digits"):
        output = tmp_path / f"{name}.safetensors"
        done = run_script("main.py", *options, f"pretrained={tmp_path}/base.safetensors", f"output={output}", cwd=demo)
        assert done.returncode == 1 and "overwrite" in done.stderr and f"{name}.safetensors" in done.stderr, done.stderr
    assert (tmp_path / "base.safetensors").read_bytes() == before
    done = run_script("main.py", *options, cwd=demo)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits_unfinished.safetensors").read_text() == "somebody else's"


def test_a_sweep_goes_on_after_a_job_that_fails_and_says_so_at_the_end(demo):
    done = run_script("main.py", "-m", "method=average,zeroshot", "method.apply_lines=true,false", "num_tasks=2", cwd=demo)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("error: method=") == 2 and "2 problems" in done.stderr
    assert {name.split("-tasks-")[1][:7] for name in records(demo) if name.startswith("ViT-demo-2")} >= {"average", "zerosho"}


def test_finetune_skips_what_is_there(demo):
    done = run_script("finetune.py", "--model=ViT-demo", "--train-dataset=Digits,Arrows", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "Digits is fine-tuned already" in done.stdout and "Arrows is fine-tuned already" in done.stdout


@pytest.mark.parametrize("script", ["main.py", "finetune.py"])
def test_help_is_in_words(script, tmp_path):
    done = run_script(script, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "Powered by Hydra" not in done.stdout
    assert ("specify_lambda" if script == "main.py" else "--train-dataset") in done.stdout


def test_masks_keep_the_tasks_apart_in_a_quarter_of_the_space(demo):
    """TALL masks reach 97 % of the fine-tuned models, and the bundle on disk is as large as it should be."""
    done = run_script("main.py", "method=tall_mask", "output_kind=bundle", "output=bundle/", "analysis=true", cwd=demo)
    assert done.returncode == 0, done.stderr
    record = record_of(demo, "tall-mask")
    assert record["means"]["normalised"]["mean"] >= 0.97
    assert set(record["coefficients"].values()) <= {0.2, 0.3, 0.4, 0.5, 0.6} and len(record["coefficients"]) == 8
    for task, chosen in record["coefficients"].items():
        best = max(point["accuracy"][task] for point in record["validation"])
        assert chosen == next(p["coefficient"] for p in record["validation"] if p["accuracy"][task] == best)
    size = sum(file.stat().st_size for file in (demo / "bundle").iterdir())
    pretrained = open_checkpoint(demo / "bundle" / "pretrained.safetensors")
    entries = sum(leaf.numel() for leaf in pretrained.values())
    assert size == record["storage"]["bytes"] == record["bytes_stored"] and record["storage"]["on_disk"]
    assert size <= 1.02 * (4 * entries + 4 * entries + 8 * entries / 8)
    assert "stored on disk" in done.stdout and "by the paper's formula" in done.stdout
    rebuilt = open_checkpoint(demo / "bundle" / "Digits")
    assert set(rebuilt) == set(pretrained)
    folder = demo / "results" / record["name"]
    names = {"accuracy", "cosine", "norms", "mask_use", "mask_overlap", "spectra", "subspaces"}
    assert {path.stem for path in folder.glob("*.png")} == names
    numbers = json.loads((folder / "analysis.json").read_text())
    assert sum(numbers["masks"]["share"]) == pytest.approx(1) and len(numbers["cosine"]) == 8
    assert all(layer["overlap"][0][0] == pytest.approx(1, abs=1e-3) for layer in numbers["layers"])


def test_consensus_makes_masks_that_others_find_and_masks_of_other_tasks_are_refused(demo):
    tasks = "DATASETS=[Digits,Arrows]"
    done = run_script("main.py", "method=consensus", tasks, "specify_lambda=0.5", cwd=demo)
    assert done.returncode == 0, done.stderr
    assert "masks: none were there that fit, so they were made: " in done.stdout
    path = re.search(r"made: (\S+)", done.stdout)[1]
    written = (demo / path).stat().st_mtime_ns
    for method in ("consensus", "tall_mask"):
        found = run_script("main.py", f"method={method}", tasks, "method.load_mask=True", cwd=demo)
        assert found.returncode == 0 and f"masks: {path} (lambda " in found.stdout, found.stderr
    assert (demo / path).stat().st_mtime_ns == written
    refused = run_script("main.py", "method=tall_mask", "DATASETS=[Digits,Counts]", f"method.load_mask={path}", cwd=demo)
    assert refused.returncode == 1 and "of the tasks Arrows, Digits" in refused.stderr and "Traceback" not in refused.stderr


def test_singular_vectors_merge_and_compress(demo):
    done = run_script("main.py", "-m", "method=TSVM,TSVC", "DATASETS=[Digits,Arrows]", "n_eval_points=3", cwd=demo)
    assert done.returncode == 0, done.stderr
    merged, compressed = (
        next(r for n, r in records(demo).items() if n.startswith(f"ViT-demo-2-tasks-{m}")) for m in ("TSVM", "TSVC")
    )
    assert [point["coefficient"] for point in merged["validation"]] == [1.5, 3.0]
    assert merged["means"]["merged"]["mean"] > merged["means"]["zeroshot"]["mean"]
    assert compressed["means"]["normalised"]["mean"] > 0.97 and compressed["coefficient"] == 1.0
    assert compressed["storage"]["separate"] == 2 * merged["bytes_stored"]


def test_codes_of_a_few_bits_are_scored_as_they_are_stored(demo):
    tasks, coded = "DATASETS=[Digits,Arrows]", ("bundle.bits=8", "output_kind=bundle", "output=codes/")
    rebuilt = ("method=given", "method.weights=codes/Arrows", "results_dir=rebuilt")
    for options in (("-m", "method=individual,emr"), ("method=emr", *coded), rebuilt):
        done = run_script("main.py", *options, tasks, cwd=demo)
        assert done.returncode == 0, done.stderr
    names = ("individual-[0-9a-f]{8}", "emr-[0-9a-f]{8}", "emr-8-bits-[0-9a-f]{8}")
    individual, exact, codes = (next(each for title, each in records(demo).items() if re.fullmatch(f"ViT-demo-2-tasks-{name}", title))
                                for name in names)  # fmt: skip
    assert individual["means"]["merged"] == individual["means"]["finetuned"]
    assert codes["question"]["bundle"] == {"bits": 8, "per": "layer", "base_bits": None} and "bundle" not in exact["question"]
    assert codes["means"]["merged"]["mean"] == pytest.approx(exact["means"]["merged"]["mean"], abs=0.005)
    size = sum(file.stat().st_size for file in (demo / "codes").iterdir())
    assert codes["storage"]["bytes"] == size < exact["storage"]["bytes"]
    (again,) = (json.loads(path.read_text()) for path in (demo / "rebuilt").glob("*.json"))
    assert again["test"]["Arrows"]["merged"]["accuracy"] == codes["test"]["Arrows"]["merged"]["accuracy"]


def test_golden_search_finds_the_same_coefficient_in_fewer_looks_and_both_are_counted(demo):
    done = run_script("main.py", "search=golden", cwd=demo)
    assert done.returncode == 0, done.stderr
    whole, few = (
        next(r for r in records(demo).values() if r["question"]["search"] == search and r["question"]["specify_lambda"] is None
             and r["name"].startswith("ViT-demo-8-tasks-sum-") and len(r["config"]["method"]["grid"]) == 10)
        for search in ("grid", "golden")
    )  # fmt: skip
    assert whole["coefficient"] == few["coefficient"] and whole["test"] == few["test"]
    assert whole["evaluations"] == {"made": 10, "grid": 10} and few["evaluations"]["grid"] == 10
    assert few["evaluations"]["made"] <= 7 and f"looked at {few['evaluations']['made']} of 10" in done.stdout


def test_two_processes_find_what_one_finds_with_the_users_folder_of_options(demo):
    (demo / "mine" / "tasks").mkdir(parents=True)
    (demo / "mine" / "tasks" / "three.yaml").write_text("names: [Digits, Arrows, Shapes]\n")
    options = ("--config-dir=mine", "tasks=three", "method.grid=[0.15,0.35]")
    found = {}
    for size in (2, 1):
        done = run_script("main.py", *options, f"world_size={size}", f"cache_dir=cache{size}", f"results_dir=of{size}", cwd=demo)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("normalised") == done.stdout.count("3 tasks, sum, coefficient") == 1  # one speaks
        (path,) = (demo / f"of{size}").glob("*.json")
        found[size] = json.loads(path.read_text())
    for kind in ("name", "coefficient", "validation", "test", "lineage", "benchmark"):
        assert found[1][kind] == found[2][kind], kind
    assert found[1]["benchmark"] == "demo"


def test_one_of_two_processes_says_what_is_wrong(demo):
    (demo / "other").mkdir()
    (demo / "other" / "notes.txt").write_text("mine")
    wrong = run_script("main.py", "num_tasks=2", "specify_lambda=0.3", "world_size=2", "output=other", cwd=demo)
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    assert wrong.stderr.count("error: ") == wrong.stderr.count("error: output=other holds other files") == 1


def test_a_sweep_under_torchrun_is_refused(demo):
    done = run_script("main.py", "-m", "num_tasks=2", "specify_lambda=0.3,0.4", cwd=demo, prepare=as_one_of_two)
    assert done.returncode == 1 and "does not run under torchrun" in done.stderr and "Traceback" not in done.stderr


def as_one_of_two():
    os.environ.update(RANK="0", WORLD_SIZE="2")


def test_a_narrower_precision_says_what_it_changes(demo):
    done = run_script("main.py", "num_tasks=2", "specify_lambda=0.3", "precision=bf16", cwd=demo)
    assert done.returncode == 0, done.stderr
    different, seen = map(int, re.search(r"bf16 and float32 differ on (\d+) of (\d+)", done.stdout).groups())
    assert seen == 1024 and different < 0.05 * seen


def test_the_runs_of_a_sweep_can_be_jobs_of_a_launcher(demo):
    options = ("hydra/launcher=side_by_side", "num_tasks=2", "results_dir=jobs")
    done = run_script("main.py", "-m", *options, "method=average", "method.apply_lines=false,true", cwd=demo)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: method=average has no coefficient" in done.stderr and "1 problem in this sweep" in done.stderr
    (path,) = (demo / "jobs").glob("*.json")
    assert json.loads(path.read_text())["question"]["method"]["_target_"].endswith("Average")


def test_statistics_are_collected_once_and_named_by_results_that_depend_on_them(demo):
    few = ("DATASETS=[Digits,Arrows]", "statistics.examples=64")
    done = run_script("main.py", "method=regmean", "specify_lambda=0.9", *few, cwd=demo)
    assert done.returncode == 0, done.stderr
    files = {path: path.stat().st_mtime_ns for path in demo.glob("checkpoints/ViT-demo/*/statistics/*.safetensors")}
    assert {path.name for path in files} == {f"nonlinear_finetuned_{task}_gram_in_empirical_val_64.safetensors" for task in ("Digits", "Arrows")}  # fmt: skip
    (record,) = (r for name, r in records(demo).items() if name.startswith("ViT-demo-2-tasks-regmean"))
    assert record["question"]["statistics"] == {"files": None, "split": "val", "examples": 64, "labels": "empirical", "seed": 0}
    assert record["means"]["merged"]["mean"] > record["means"]["zeroshot"]["mean"]
    again = run_script(
        "main.py", "method=cg", "method.objective=regmean", "method.iterations=2", "specify_lambda=0.9", *few, cwd=demo
    )
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in demo.glob("checkpoints/ViT-demo/*/statistics/*.safetensors")} == files
    assert not any("statistics" in r["question"] for name, r in records(demo).items() if "-sum-" in name)


def test_the_example_of_lines_tables_and_draws_the_trade_off(demo, tmp_path):
    text = execute("LiNeS_example.ipynb", clone(tmp_path, checkpoints=demo / "checkpoints", cache=demo / "cache"))
    rows = [line.split() for line in text.splitlines() if line.startswith(("pre-trained ", "LiNeS, alpha "))]
    assert [row[-3] for row in rows] == ["pre-trained", "1.0", "0.75", "0.5", "0.25", "0.0"]
    on_target, on_controls = zip(*((float(row[-2]), float(row[-1])) for row in rows))
    assert on_target[1] == max(on_target) and on_controls[1] == min(on_controls)
    assert "entries, of which the fine-tuned file has" in text
