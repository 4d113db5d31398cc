"""Properties of every method in config/method."""

import inspect
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from importlib import import_module

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.opening import open_checkpoint
from src.elementwise import add_vector
from src.errors import UserError
from src.merging.engine import inputs as module
from src.merging.engine.edits import aligned_size
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import LiNeS, OwnScale
from src.merging.method import Fixed, Method, Wrapper, normalised, respace
from src.merging.weighted_mean import OffDiagonal
from tests.conftest import merge_inputs, tiny_models
from tests.helpers.processes import ROOT

METHODS = {path.stem: path for path in sorted((ROOT / "config" / "method").glob("*.yaml"))}


# Where there is no validation data, or no time.
NEEDED = {"consensus": ["method.mask_lambda=0.4"], "adamerging": ["method.iterations=3"]}


# One method of each kind that SVC treats in its own way, and such that it refuses.
CALIBRATED = ("sum", "ties", "TSVM", "iso_c", "actmat", "cart", "dare", "regmean", "TSVC", "zeroshot", "subspace_boosting")


@cache
def build(name: str, steps: str = "", *more: str) -> Method:
    """Return a method with what comes after it, `lines`, `svc` or both."""
    options = [f"method={name}", *(f"method.apply_{step}=True" for step in steps.split()), *NEEDED.get(name, []), *more]
    return build_method(compose_config(options))


def variants() -> list[tuple[str, str]]:
    found = []
    for name in METHODS:
        for steps in ("", "lines", *["svc"] * (name in CALIBRATED), *["svc lines"] * (name == "sum")):
            with suppress(UserError):
                build(name, steps)
                found.append((name, steps))
    return found


VARIANTS = variants()


def test_lines_is_refused_only_where_the_papers_have_none_and_with_a_reason():
    assert {name for name in METHODS if (name, "lines") not in VARIANTS} >= {"zeroshot", "zero-shot", "average"}
    scaled = {"sum", "ties", "single_task", "consensus", "TSVM", "TSVM_2", "iso_c", "iso_cts"}
    assert scaled <= {name for name, steps in VARIANTS if steps}
    assert not {name for name, steps in VARIANTS if steps and build(name).per_task}
    calibrated = {name for name, steps in VARIANTS if steps == "svc"}
    assert calibrated == set(CALIBRATED) - {"TSVC", "zeroshot", "subspace_boosting"}
    for name in ("zeroshot", "average"):
        with pytest.raises(UserError, match=name):
            build(name, "lines")


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_a_method_edits_nothing_it_is_given(name, steps):
    pretrained, finetuned = tiny_models()
    before = [{key: leaf.clone() for key, leaf in model.items()} for model in (pretrained, *finetuned.values())]
    vectors = build(name, steps)(merge_inputs((pretrained, finetuned), keep=True))(0.3)
    inputs = {leaf.untyped_storage().data_ptr() for model in (pretrained, *finetuned.values()) for leaf in model.values()}
    for vector in vectors.values():
        for key in vector:
            assert vector[key].untyped_storage().data_ptr() not in inputs, f"{key} is the memory of an input"
    for model, kept in zip((pretrained, *finetuned.values()), before):
        assert all(torch.equal(model[key], leaf) for key, leaf in kept.items())


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_a_method_gives_every_task_a_finite_vector_of_the_models_shapes(name, steps, inputs):
    vectors = build(name, steps)(inputs)(0.3)
    assert set(vectors) == set(inputs.tasks)
    for vector in vectors.values():
        assert list(vector) == list(inputs.outline) and "positions" not in vector
        for key, leaf in vector.items():
            assert leaf.shape == inputs.outline[key].shape and leaf.dtype == torch.float32 and leaf.isfinite().all()
        assert not vector["frozen.weight"].any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name,steps", VARIANTS)
def test_a_candidate_shares_with_the_pretrained_model_what_no_task_changed(name, steps, keep):
    models = tiny_models()
    inputs = replace(merge_inputs(models, keep=keep))
    for vector in build(name, steps)(inputs)(0.3).values():
        assert vector["frozen.weight"].untyped_storage().nbytes() == 4  # one zero, whatever the coefficient
        candidate = add_vector(models[0], vector)
        assert candidate["frozen.weight"].data_ptr() == models[0]["frozen.weight"].data_ptr()
        assert name in ("zeroshot", "zero-shot") or candidate["blocks.1.w"].data_ptr() != models[0]["blocks.1.w"].data_ptr()


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_the_same_question_has_the_same_answer_kept_or_not_in_slices_or_whole(name, steps, monkeypatch):
    models = tiny_models()
    whole = build(name, steps)(merge_inputs(models, keep=True))(0.7)
    monkeypatch.setitem(module.SLICE_BYTES, "cpu", 4 * 8)  # eight entries a slice
    cut = build(name, steps)(merge_inputs(models, keep=False))(0.7)
    for task, vector in whole.items():
        for key in vector:
            torch.testing.assert_close(vector[key], cut[task][key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_a_merge_holds_a_slice_or_a_matrix_for_each_core_and_the_caller(name, steps, monkeypatch):
    """Of all tasks' entries never more than that is in memory, however many parameters there are."""
    tasks, slice_size = 6, 8
    monkeypatch.setitem(module.SLICE_BYTES, "cpu", 4 * slice_size)
    alive, most, lock = 0, 0, threading.Lock()
    real = MergeInputs.each

    def counting(self, key, visit):
        def counted(part, stack):
            nonlocal alive, most
            rows = [edit.row_length(self.outline[key].shape) for edit in self.edits]
            assert stack.numel() <= tasks * aligned_size(slice_size, rows)
            with lock:
                alive += 1
                most = max(most, alive)
            seen = visit(part, stack)
            with lock:
                alive -= 1
            return seen

        return real(self, key, counted)

    monkeypatch.setattr(MergeInputs, "each", counting)
    inputs = merge_inputs(tiny_models(tasks=tasks, blocks=6))
    vectors = build(name, steps)(inputs)(0.3)
    for vector in {id(v): v for v in vectors.values()}.values():
        for key in vector:
            vector[key]
    buffers = [buffer for idle in inputs.memo.get("idle buffers", {}).values() for buffer in idle]
    most_buffers = torch.get_num_threads() + 1
    assert most <= most_buffers and all(buffer.numel() in (tasks * slice_size, tasks * 4 * 6) for buffer in buffers)
    for size in (tasks * slice_size, tasks * 4 * 6):
        assert sum(buffer.numel() == size for buffer in buffers) <= most_buffers


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_models_of_16_bits_are_merged_in_32_and_of_64_in_64(name, steps):
    for dtype, working in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        pretrained, finetuned = tiny_models()
        pretrained, *tuned = ({key: leaf.to(dtype) if leaf.is_floating_point() else leaf for key, leaf in model.items()}
                              for model in (pretrained, *finetuned.values()))  # fmt: skip
        vectors = build(name, steps)(merge_inputs((pretrained, dict(zip(finetuned, tuned)))))(0.3)
        assert {leaf.dtype for vector in vectors.values() for leaf in vector.values()} == {working}


@pytest.mark.parametrize("name", METHODS)
def test_coefficients_are_one_or_a_grid_that_ascends(name):
    method = build(name)
    coefficients = method.coefficients(4)
    assert len(coefficients) == 1 if isinstance(method, Fixed) else list(coefficients) == sorted(set(coefficients))


# Of the papers' methods: the fixed coefficient for four tasks, or the ends of the grid.
PAPERS = {
    **{"average": (0.25,), "zeroshot": (0.0,), "zero-shot": (0.0,), "single_task": (1.0,), "mag_masking": (1.0,), "TSVC": (1.0,)},
    **{"emr": (1.0,), "individual": (1.0,)},
    **{"sum": (0.1, 1.0), "consensus": (0.1, 1.0), "ties": (0.1, 1.5), "tall_mask": (0.2, 0.6)},
    **dict.fromkeys(("TSVM", "TSVM_2", "iso_c", "iso_cts"), (0.1, 3.0)),
}


@pytest.mark.parametrize("name", PAPERS)
def test_grids_are_those_of_the_papers(name):
    coefficients = build(name).coefficients(4)
    assert (coefficients if len(coefficients) == 1 else (coefficients[0], coefficients[-1])) == PAPERS[name]


def test_single_task_with_lines_tries_alpha_from_one_down():
    assert build("single_task", "lines").coefficients(4) == (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


def test_respace_counts_from_zero_and_leaves_it_out():
    assert respace([0.1, 1.0], 6) == (0.2, 0.4, 0.6, 0.8, 1.0)
    assert respace([1.0, 0.0], 3) == (1.0, 0.5)
    with pytest.raises(UserError, match="n_eval_points"):
        respace([0.1, 1.0], 1)


@pytest.mark.parametrize("name", METHODS)
def test_an_option_hides_no_member_of_a_method(name):
    """Else a search, say, would call a number."""
    options = {field.name for field in fields(build(name))}
    assert not {member for member in options if callable(getattr(Method, member, None))}


def test_average_is_the_mean_and_sum_the_sum(models):
    pretrained, finetuned = models
    inputs = merge_inputs(models)
    average = build("average")
    vector = average(inputs)(average.coefficient(3))["task0"]
    for key in vector:
        mean = sum(model[key] for model in finetuned.values()) / 3
        torch.testing.assert_close(pretrained[key] + vector[key], mean)
    total = build("sum")(inputs)(1.0)["task1"]
    torch.testing.assert_close(total["head.bias"], 3 * vector["head.bias"])


def test_fixed_coefficients_are_not_replaced_silently():
    with pytest.raises(UserError, match="fixed coefficient"):
        build("average").check_coefficient(0.3, 4)
    build("average").check_coefficient(0.25, 4)
    with pytest.raises(UserError, match="zeroshot"):
        build("zeroshot").check_coefficient(0.5, 4)
    with pytest.raises(UserError, match="finite"):
        build("sum").check_coefficient(float("nan"), 4)


def test_single_task_names_the_tasks_when_the_index_is_too_high(inputs):
    method = build_method(compose_config(["method=single_task", "method.task_index=3"]))
    with pytest.raises(UserError, match="0 task0, 1 task1, 2 task2"):
        method(inputs)


def test_the_objective_is_the_mean_normalised_accuracy():
    merged, finetuned = {"a": 0.4, "b": 0.9}, {"a": 0.8, "b": 0.9}
    assert build("sum").criterion(merged, finetuned, {}) == pytest.approx(0.75)
    assert build("sum", "lines").criterion(merged, finetuned, {}) == pytest.approx(0.75)
    assert normalised(0.5, 0.0) == 0.0


def test_the_single_task_trade_off_weighs_target_against_controls():
    method = build("single_task", "lines")
    merged, finetuned, zeroshot = {"a": 0.6, "b": 0.3, "c": 0.5}, {"a": 0.8}, {"b": 0.4, "c": 0.5}
    assert method.criterion(merged, finetuned, zeroshot) == pytest.approx(2 * 0.75 + (0.75 + 1) / 2)
    summary = method.summary(merged, finetuned, zeroshot)
    assert summary["target a"] == 0.6 and summary["mean control"] == pytest.approx(0.4)


def test_models_that_do_not_match_are_refused_all_at_once():
    pretrained, finetuned = tiny_models()
    del finetuned["task0"]["head.bias"]
    finetuned["task2"]["embed.weight"] = torch.zeros(2, 2)
    with pytest.raises(UserError) as excinfo:
        merge_inputs((pretrained, finetuned))
    assert len(excinfo.value.problems) == 2
    assert "task0 lacks head.bias" in str(excinfo.value) and "task2" in excinfo.value.problems[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name,steps", VARIANTS)
def test_non_finite_entries_are_refused_by_task_and_name(name, steps, value):
    pretrained, finetuned = tiny_models()
    finetuned["task1"]["blocks.1.w"][0, 0] = value
    vectors = None
    try:
        vectors = build(name, steps)(merge_inputs((pretrained, finetuned)))(0.3)
        for key in vectors["task0"]:
            vectors["task0"][key]
    except UserError as reason:
        assert "blocks.1.w" in str(reason) and "task1" in str(reason)
    else:
        assert name in ("single_task", "given", "individual")  # which read another model alone


def test_an_infinite_mask_that_all_models_share_is_no_error():
    pretrained, finetuned = tiny_models()
    for model in (pretrained, *finetuned.values()):
        model["frozen.weight"] = torch.full((2, 2), float("-inf"))
    vector = build("sum")(merge_inputs((pretrained, finetuned)))(1.0)["task0"]
    assert not vector["frozen.weight"].any()


def test_every_method_has_a_yaml_that_names_it():
    targets = {OmegaConf.load(path).get("_target_") for path in METHODS.values()} - {None}
    modules = [import_module(f"src.merging.{path.stem}") for path in (ROOT / "src" / "merging").glob("[!_]*.py")]
    classes = {
        f"{module.__name__}.{each.__name__}": each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
        and issubclass(each, Method) and not inspect.isabstract(each)
    }  # fmt: skip
    assert targets <= set(classes)
    assert {name for name, each in classes.items() if not issubclass(each, Wrapper)} <= targets  # others are steps of any method


def test_a_wrapper_forwards_every_member_of_a_method():
    """Else a member that a later method defines would be lost under LiNeS."""
    members = {name for name in vars(Method) if not name.startswith("_")}
    assert members <= set(vars(Wrapper)), members - set(vars(Wrapper))


@pytest.mark.parametrize("name", [name for name, steps in VARIANTS if steps == "lines" and not name.startswith("single_task")])
def test_under_lines_a_method_answers_as_it_does_itself(name):
    method, scaled = (build(name, steps, "method.space=full") for steps in ("", "lines"))
    searches_another = isinstance(method, OwnScale)  # whose own coefficient is no scale, or 1 alone
    assert isinstance(scaled, LiNeS)
    assert scaled.coefficients(3) == (tuple(method.betas) if searches_another else method.coefficients(3))
    for member in ("per_task", "makes_masks", "decomposes", "mask_base", "needs", "unlabelled_split"):
        assert getattr(scaled, member) == getattr(method, member), member
    expected = method.description | ({"off_diagonal": 1.0} if isinstance(method, OffDiagonal) else {})
    assert scaled.mask_method == method.mask_method and scaled.description["base"] == expected
    with pytest.raises(UserError, match="finite"):
        scaled.check_coefficient(float("nan"), 3)


def test_the_documented_method_passes_where_it_is_put(tmp_path):
    """The example of docs/add.md, median, in a copy of the program: the properties of every method hold for it, too."""
    text = (ROOT / "docs" / "add.md").read_text()
    code = re.search(r"# mine/median\.py\n(.*?)```", text, re.S)[1]
    yaml = re.search(r"# mine/method/median\.yaml\n(.*?)```", text, re.S)[1]
    for folder in ("src", "command_line", "config", "tests", "demo"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "files"))
    for file in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "src" / "merging" / "median.py").write_text(code)
    (tmp_path / "config" / "method" / "median.yaml").write_text(yaml.replace("median.Median", "src.merging.median.Median"))
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-o", "addopts=", "-q", "-k", "median or every_method", "tests"]
    paths = ["tests/merging/test_methods.py", "tests/test_configs.py", "tests/test_imports.py"]
    run = subprocess.run([*command[:-1], *paths], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and "passed" in run.stdout, run.stdout


SHARED = sorted(name for name in METHODS if not build(name).per_task)


@pytest.mark.parametrize("masks", ["tall_mask", "mag_masking", "consensus"])
@pytest.mark.parametrize("base", SHARED)
def test_masks_select_from_any_method_on_tall_matrices_too(masks, base):
    pretrained, finetuned = ({name: leaf.T.contiguous() if leaf.ndim == 2 else leaf for name, leaf in model.items()}
                             for model in (tiny_models(tasks=1)[0], tiny_models(tasks=1)[1]["task0"]))  # fmt: skip
    other = {key: leaf + 0.1 if leaf.is_floating_point() else leaf for key, leaf in finetuned.items()}
    inputs = merge_inputs((pretrained, {"a": finetuned, "b": other}))
    method = build(masks)
    method = replace(method, base=build(base)) if hasattr(method, "base") else method
    for vector in method(inputs)(0.4).values():
        assert set(vector) == set(inputs.outline)
        for key in vector:
            assert torch.isfinite(vector[key]).all()


@pytest.mark.parametrize("name,steps", VARIANTS)
def test_entries_lie_in_memory_as_files_have_them(name, steps):
    pretrained, finetuned = tiny_models()
    for shape in ((9, 4), (4, 9)):
        key = f"blocks.0.{shape[0]}.weight"
        pretrained[key] = torch.randn(shape)
        for model in finetuned.values():
            model[key] = pretrained[key] + 0.1 * torch.randn(shape)
    for vector in build(name, steps)(merge_inputs((pretrained, finetuned)))(0.7).values():
        assert all(vector[key].is_contiguous() for key in vector if key != "frozen.weight" and vector[key].stride() != (0, 0))


@pytest.mark.gpu
@pytest.mark.parametrize("name,steps", VARIANTS)
def test_a_gpu_gives_what_the_cpu_gives(name, steps):
    pretrained, finetuned = tiny_models()
    inputs = merge_inputs((pretrained, finetuned))
    there = replace(inputs, device=torch.device("cuda"), memo={})
    # what many iterations give in float32 is known to fewer digits than are compared here
    method = build(name, steps, *["method.precision=fp64"] * (name == "cg"))
    for task, vector in method(inputs)(0.7).items():
        moved = method(there)(0.7)[task]
        for key in vector:
            error = (moved[key].cpu() - vector[key]).norm()
            assert error <= (1e-4 if method.decomposes else 1e-6) * vector[key].norm(), key


def test_matrices_asked_for_in_order_are_made_once_each():
    inputs, made = merge_inputs(tiny_models(blocks=6)), []
    keys = [key for key in inputs.outline if inputs.is_matrix(key)]

    def work(key: str, stack: torch.Tensor) -> torch.Tensor:
        made.append(tuple(stack.shape[1:]))
        return stack.sum(0)

    matrices = inputs.each_parameter(keys, work)
    assert list(matrices) == [key for key in keys if inputs.changed(key)] and "frozen.weight" not in matrices
    for key in matrices:
        assert key in matrices
        torch.testing.assert_close(matrices[key], sum(vector[key] for vector in inputs.vectors.values()))
    assert len(made) == len(matrices)


def test_what_is_given_comes_out_to_the_bit_whatever_it_is_far_from(tmp_path):
    """A sum of rounded differences would come near it: where weights are small beside the pre-trained ones, not very."""
    pretrained, _ = tiny_models()
    model = {key: 1e-4 * torch.randn_like(leaf) if "blocks" in key else leaf for key, leaf in pretrained.items()}
    model["head.bias"] = model["head.bias"].half()
    save_file(model, tmp_path / "model.safetensors")
    method = build_method(compose_config(["method=given", f"method.weights={tmp_path}/model.safetensors"]))
    inputs = replace(merge_inputs((pretrained, {"a": pretrained, "b": pretrained})), read_model=open_checkpoint)
    vectors = method(inputs)(1.0)
    assert list(vectors) == ["a", "b"] and vectors["a"] is vectors["b"]
    merged = add_vector(pretrained, vectors["a"])
    for key, leaf in merged.items():
        assert leaf.dtype == pretrained[key].dtype and torch.equal(leaf, model[key].to(leaf.dtype)), key
    rounded = add_vector(dict(pretrained), vectors["a"])  # equal weights, but not those it starts from
    assert not torch.equal(rounded["blocks.0.w"], merged["blocks.0.w"])
    halved = add_vector(pretrained, vectors["a"], 0.5)["blocks.0.w"]
    torch.testing.assert_close(halved, (pretrained["blocks.0.w"] + model["blocks.0.w"]) / 2)


def test_a_model_of_another_architecture_is_no_merge_of_these():
    inputs = replace(merge_inputs(tiny_models()), read_model=lambda path: {"blocks.0.w": torch.zeros(4, 6)})
    with pytest.raises(UserError, match=r"lacks embed\.weight"):
        build("given")(inputs)


OF_ONE_MODEL = ("given", "single_task", "interpolate")  # whose vectors are not of all tasks alike


def in_float64(models: tuple[dict, dict]) -> tuple[dict, dict]:
    pretrained, *finetuned = ({key: leaf.double() if leaf.is_floating_point() else leaf for key, leaf in model.items()}
                              for model in (models[0], *models[1].values()))  # fmt: skip
    return pretrained, dict(zip(models[1], finetuned))


def assert_near(vector, expected):
    for key in expected:
        assert (vector[key] - expected[key]).norm() <= 1e-5 * expected[key].norm() + 1e-9, key


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OF_ONE_MODEL])
def test_the_order_of_tasks_does_not_matter(name):
    pretrained, finetuned = in_float64(tiny_models())
    method = build(name, "", *["method.precision=fp64"] * (name == "cg"))
    there = method(merge_inputs((pretrained, finetuned)))(0.7)
    back = method(merge_inputs((pretrained, dict(reversed(finetuned.items())))))(0.7)
    for task in finetuned:
        assert_near(back[task], there[task])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "given"])
def test_tasks_that_changed_nothing_make_no_change(name):
    pretrained, finetuned = tiny_models()
    vectors = build(name)(merge_inputs((pretrained, dict.fromkeys(finetuned, pretrained))))(0.7)
    assert not any(leaf.any() for vector in vectors.values() for leaf in vector.values())


# Adam's steps have a length, and conjugate gradients end by the length of the models.
OTHER_SCALES = ("adamerging", "cg")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*OF_ONE_MODEL[:1], *OTHER_SCALES)])
def test_twice_as_long_vectors_make_twice_as_long_a_merge(name):
    pretrained, finetuned = in_float64(tiny_models())
    longer = {task: {key: pretrained[key] + 2 * (leaf - pretrained[key]) for key, leaf in model.items()}
              for task, model in finetuned.items()}  # fmt: skip
    once, twice = (build(name)(merge_inputs((pretrained, models)))(0.7) for models in (finetuned, longer))
    for task in finetuned:
        assert_near(twice[task], {key: 2 * leaf for key, leaf in once[task].items()})
