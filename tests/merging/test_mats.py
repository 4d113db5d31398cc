"""Fisher merging, RegMean and conjugate gradients, against outputs of MaTS' released code (tests/files/mats) and by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from command_line.build import build_method
from command_line.config import compose_config
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.solved import SolvedEntries
from src.errors import UserError
from src.merging import cg, regmean
from src.merging.engine.conjugate_gradient import BREAKDOWN, CONVERGED, LIMIT, STALLED, convergence_notes, jacobi, solve
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.least_squares import solve_positive
from src.merging.engine.objectives import OBJECTIVES
from tests.conftest import merge_inputs, tiny_models

FILES = Path(__file__).parent.parent / "files" / "mats"
CASES = json.loads((FILES / "mats.json").read_text())
OPTIONS = {"diag": "fisher", "block": "block_fisher"}  # names of objectives in the files where ours are others
START = {"tv": "sum"}
INITIAL_LAMBDA = {"full": 0.3, "ia3": 0.2}
CLOSED_FORMS = {
    "full_fisher_diag": "method=fisher",
    "full_regmean_1.0": "method=regmean method.off_diagonal=1",
    "full_regmean_0.9": "method=regmean method.off_diagonal=0.9",
    "full_regmean_0.0": "method=regmean specify_lambda=0.0",
    "ia3_average_0.5": f"method=interpolate method.weights=[{1 / 6},{1 / 6},{1 / 6}]",
    "ia3_n2_average_0.3": "method=interpolate specify_lambda=0.3",
    "ia3_fisher_diag": "method=fisher",
    "ia3_n2_fisher_diag_0.3": "method=fisher method.weights=[0.3,0.7]",
}
EXACT = "method=cg method.off_diagonal=1 method.precision=fp64 method.iterations=5000 method.tolerance=1e-12"
DENSE = {
    "full_regmean": "method=regmean method.off_diagonal=1",
    "full_kfac": EXACT,
    "ia3_diag": f"{EXACT} method.objective=fisher",
    "ia3_block": f"{EXACT} method.objective=block_fisher",
    "ia3_block_lam0.9": f"{EXACT} method.objective=block_fisher method.off_diagonal=0.9",
}


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(FILES / "mats.safetensors")


def below(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): leaf for key, leaf in stored.items() if key.startswith(prefix)}


def stored_inputs(stored: dict[str, Tensor], space: str, tasks: list[str]) -> MergeInputs:
    """Full models, or (IA)^3 vectors, whose pre-trained values are one."""
    belongs = (lambda key: key.endswith(".ia3")) if space == "ia3" else lambda key: not key.endswith(".ia3")
    models = {task: {key: leaf for key, leaf in below(stored, f"{task}/").items() if belongs(key)} for task in tasks}
    ones = {key: torch.ones_like(leaf) for key, leaf in models[tasks[0]].items()}
    kinds = ("fisher_diag", "fisher_block") if space == "ia3" else ("fisher_diag", "gram_in", "gram_out")
    statistics = {
        kind: {task: {key if "fisher" in kind else f"{key}.weight": leaf for key, leaf in below(stored, f"{kind}/{task}/").items()}
               for task in tasks}
        for kind in kinds
    }  # fmt: skip
    statistics["fisher_diag"] = {task: {key: leaf for key, leaf in entries.items() if belongs(key)}
                                 for task, entries in statistics["fisher_diag"].items()}  # fmt: skip
    base = ones if space == "ia3" else below(stored, "pretrained/")
    return MergeInputs(base, models, lambda key: None, lambda key: True, torch.device("cpu"), False, statistics)


def merged(inputs: MergeInputs, options: str) -> dict[str, Tensor]:
    config = compose_config(options.split())
    method = build_method(config)
    coefficient = config.specify_lambda if config.specify_lambda is not None else method.coefficients(len(inputs.tasks))[0]
    vector = method(inputs)(coefficient)[inputs.tasks[0]]
    return {key: inputs.pretrained[key] + vector[key] for key in vector}


def distance(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms_give_what_the_released_code_gives(name, stored):
    tasks = CASES["tasks"][:2] if "n2" in name else CASES["tasks"]
    found = merged(stored_inputs(stored, name.split("_")[0], tasks), CLOSED_FORMS[name])
    for key, expected in below(stored, f"merge/{name}/").items():
        assert distance(found[key], expected) <= CASES["closed"][name], key


@pytest.mark.parametrize("case", CASES["cases"])
def test_conjugate_gradients_take_the_steps_of_the_released_code(case, stored):
    facts, space = CASES["cases"][case], case.split(".")[0]
    inputs = stored_inputs(stored, space, CASES["tasks"])
    options = (
        f"method=cg method.objective={OPTIONS.get(facts['objective'], facts['objective'])} method.iterations={facts['iters']} "
        f"method.off_diagonal={facts.get('lam', 1.0)} method.initialisation={START.get(facts['init'], facts['init'])} "
        f"method.initial_lambda={INITIAL_LAMBDA[space]}"
    )
    found = merged(inputs, options)
    for key, tolerance in facts["tolerance"].items():
        assert distance(found[key], stored[f"cg/{case}/{key}"]) <= tolerance, key
        assert inputs.convergence[key].iterations <= facts["iters"]


@pytest.mark.parametrize("name", DENSE)
def test_converged_solutions_are_the_dense_ones(name, stored):
    found = merged(stored_inputs(stored, name.split("_")[0], CASES["tasks"]), DENSE[name])
    for key, expected in below(stored, f"dense/{name}/").items():
        assert distance(found[key], expected) <= 1e-6, key


@pytest.mark.parametrize("case", CASES["edges"])
def test_singular_and_floored_cases_are_right(case, stored):
    facts, leaves = CASES["edges"][case], below(stored, f"edge/{case}/")
    kind = "fisher_diag" if case.startswith("fisher") else "gram_in"
    models = {str(number): {"m.weight": leaves[f"W{number}"]} for number in range(facts["n"])}
    entries = {str(number): {"m.weight": leaves[f"{'F' if 'fisher' in kind else 'A'}{number}"]} for number in range(facts["n"])}
    base = {"m.weight": torch.zeros_like(leaves["W0"])}
    inputs = MergeInputs(base, models, lambda key: None, lambda key: True, torch.device("cpu"), False, {kind: entries})
    if kind == "gram_in":
        options = f"method=regmean method.off_diagonal={facts['lambda']}"
    else:
        weights = f" method.weights=[{facts['lambda']},{1 - facts['lambda']}]" if facts["n"] == 2 else ""
        options = f"method=fisher{weights}"
    expected = leaves["out_corrected64" if kind == "gram_in" else "out"]
    assert distance(merged(inputs, options)["m.weight"], expected) <= 1e-6


@pytest.mark.parametrize("options", ["method=fisher method.floor=0", "method=regmean method.off_diagonal=1",
                                     *(f"{EXACT} method.objective={name}" for name in OBJECTIVES)])  # fmt: skip
def test_the_scale_of_all_statistics_changes_nothing(options, inputs):
    plain = merged(inputs, options)
    for factor in (1e-12, 1e9):
        scaled = {kind: {task: {key: leaf * factor for key, leaf in entries.items()} for task, entries in by_task.items()}
                  for kind, by_task in inputs.statistics.items()}  # fmt: skip
        other = MergeInputs(inputs.pretrained, inputs.finetuned, inputs.depth, inputs.is_layer, inputs.device, False, scaled)
        found = merged(other, options)
        for key, leaf in plain.items():
            torch.testing.assert_close(found[key], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", ["method=fisher", "method=regmean method.off_diagonal=0.9",
                                     *(f"method=cg method.objective={name} method.off_diagonal=0.9" for name in OBJECTIVES)])  # fmt: skip
def test_equal_models_are_a_fixed_point(options):
    pretrained, finetuned = tiny_models()
    one = next(iter(finetuned.values()))
    for key, leaf in merged(merge_inputs((pretrained, dict.fromkeys("abc", one))), options).items():
        torch.testing.assert_close(leaf, one[key].to(leaf.dtype), rtol=1e-5, atol=1e-6)


WEIGHTS = (1.0, 2.0, 0.5)


def shrunk(matrix: Tensor, factor: float) -> Tensor:
    return factor * matrix.double() + (1 - factor) * matrix.double().diagonal().diag()


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("off_diagonal", [1.0, 0.9])
def test_kfac_is_the_dense_solution_with_weights(off_diagonal, preconditioned, inputs):
    options = f"{EXACT} method.off_diagonal={off_diagonal} method.weights={list(WEIGHTS)} method.preconditioned={preconditioned}"
    found = merged(inputs, options.replace(", ", ","))
    for key in ("blocks.0.w", "embed.weight"):
        matrix, target = 0, 0
        for task, weight in zip(inputs.tasks, WEIGHTS):
            inner, outer = (shrunk(inputs.statistics[kind][task][key], off_diagonal) for kind in ("gram_in", "gram_out"))
            block = weight * torch.kron(outer, inner)
            matrix, target = matrix + block, target + block @ inputs.finetuned[task][key].double().flatten()
        expected = torch.linalg.solve(matrix, target).view(found[key].shape)
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", ["method=regmean", "method=cg method.objective=regmean method.precision=fp64 "
                                     "method.tolerance=1e-12 method.iterations=1000 method.preconditioned=true"])  # fmt: skip
def test_regmean_is_least_squares_on_stacked_inputs_with_weights(options, inputs):
    draw = torch.Generator().manual_seed(3)
    key, columns = "blocks.0.w", inputs.outline["blocks.0.w"].shape[1]
    stacks = {task: torch.randn(9, columns, generator=draw) for task in inputs.tasks}
    grams = {task: {key: stack.T @ stack} for task, stack in stacks.items()}
    found = merged(with_statistics(inputs, gram_in=grams), f"{options} method.off_diagonal=1 method.weights=[1.0,2.0,0.5]")
    roots = [weight**0.5 * stacks[task].double() for task, weight in zip(inputs.tasks, WEIGHTS)]
    outputs = torch.cat([root @ inputs.finetuned[task][key].double().T for task, root in zip(inputs.tasks, roots)])
    expected = torch.linalg.lstsq(torch.cat(roots), outputs).solution.T
    torch.testing.assert_close(found[key].double(), expected, rtol=1e-4, atol=1e-5)
    mean = sum(weight * inputs.finetuned[task]["head.bias"] for task, weight in zip(inputs.tasks, WEIGHTS)) / sum(WEIGHTS)
    torch.testing.assert_close(found["head.bias"], mean)  # what has no statistic is averaged by the same weights


def test_block_fisher_with_diagonal_blocks_is_the_diagonal_fisher_without_a_floor(inputs):
    diagonals = {task: {key: leaf for key, leaf in entries.items() if leaf.ndim == 1}
                 for task, entries in inputs.statistics["fisher_diag"].items()}  # fmt: skip
    blocks = {task: {key: leaf.diag() for key, leaf in entries.items()} for task, entries in diagonals.items()}
    exact = merged(with_statistics(inputs, fisher_diag=diagonals), "method=fisher method.floor=0")
    for off_diagonal in (0, 1):
        options = f"{EXACT} method.objective=block_fisher method.off_diagonal={off_diagonal}"
        found = merged(with_statistics(inputs, fisher_block=blocks), options)
        for key in diagonals["task0"]:
            torch.testing.assert_close(found[key], exact[key], rtol=1e-5, atol=1e-6)


def test_the_floor_of_normalised_information_is_of_a_mean_of_one():
    pretrained = {"blocks.0.b": torch.zeros(2)}
    models = {"a": {"blocks.0.b": torch.tensor([1.0, 1.0])}, "b": {"blocks.0.b": torch.tensor([-1.0, -1.0])}}
    fisher = {"a": {"blocks.0.b": torch.tensor([2e-9, 0.0])}, "b": {"blocks.0.b": torch.tensor([1e3, 1e3])}}
    inputs = with_statistics(merge_inputs((pretrained, models)), fisher_diag=fisher)
    found = merged(inputs, "method=fisher method.normalise=trace method.floor=0.5")["blocks.0.b"]
    torch.testing.assert_close(found, torch.tensor([(2 - 1) / 3, (0.5 - 1) / 1.5]))


def test_one_large_feature_takes_nothing_from_the_others():
    draw = torch.Generator().manual_seed(0)
    sizes = torch.ones(64)
    sizes[5] = 3000
    stacks = {task: torch.randn(400, 64, generator=draw) * sizes for task in "ab"}
    pretrained = {"blocks.0.w": torch.zeros(3, 64)}
    models = {task: {"blocks.0.w": torch.randn(3, 64, generator=draw)} for task in "ab"}
    inputs = with_statistics(merge_inputs((pretrained, models)), gram_in={
        task: {"blocks.0.w": stack.T @ stack / len(stack)} for task, stack in stacks.items()})  # fmt: skip
    found = merged(inputs, "method=regmean method.off_diagonal=1")["blocks.0.w"]
    outputs = torch.cat([stack.double() @ models[task]["blocks.0.w"].double().T for task, stack in stacks.items()])
    expected = torch.linalg.lstsq(torch.cat(list(stacks.values())).double(), outputs).solution.T
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_information_that_is_none_is_refused(value, inputs):
    fisher = {
        task: {key: leaf.clone() for key, leaf in entries.items()} for task, entries in inputs.statistics["fisher_diag"].items()
    }
    fisher["task1"]["blocks.1.w"][0, 0] = value
    with pytest.raises(UserError, match=r"fisher_diag of task1 holds negative, NaN or infinite values in blocks\.1\.w"):
        merged(with_statistics(inputs, fisher_diag=fisher), "method=fisher")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.float8_e5m2])
def test_statistics_of_every_dtype_are_read(dtype, inputs):
    narrow = {kind: {task: {key: leaf.to(dtype) for key, leaf in entries.items()} for task, entries in by_task.items()}
              for kind, by_task in inputs.statistics.items()}  # fmt: skip
    wide = {kind: {task: {key: leaf.to(dtype).float() for key, leaf in entries.items()} for task, entries in by_task.items()}
            for kind, by_task in inputs.statistics.items()}  # fmt: skip
    for options in ("method=fisher", "method=regmean specify_lambda=0.5", "method=cg specify_lambda=0.5 method.iterations=3"):
        found = merged(with_statistics(inputs, **narrow), options)
        for key, leaf in merged(with_statistics(inputs, **wide), options).items():
            torch.testing.assert_close(found[key], leaf, rtol=1e-5, atol=1e-5)


def test_tiny_and_missing_information_is_no_division_by_zero(inputs):
    for factor in (1e-40, 0.0):
        scaled = {kind: {task: {key: leaf * factor for key, leaf in entries.items()} for task, entries in by_task.items()}
                  for kind, by_task in inputs.statistics.items()}  # fmt: skip
        for options in ("method=fisher", "method=regmean specify_lambda=1", "method=cg specify_lambda=1",
                        "method=cg method.objective=average"):  # fmt: skip
            for more in ("", " method.normalise=trace"):
                assert all(leaf.isfinite().all() for leaf in merged(with_statistics(inputs, **scaled), options + more).values())


def test_objectives_without_off_diagonals_search_none(inputs):
    for name, objective in OBJECTIVES.items():
        method = build_method(compose_config(["method=cg", f"method.objective={name}"]))
        assert len(method.coefficients(3)) == (11 if objective.has_off_diagonal else 1)
    assert build_method(compose_config(["method=regmean", "n_eval_points=3"])).coefficients(3) == (0.0, 0.5, 1.0)


def test_what_is_asked_for_twice_is_solved_once(inputs, monkeypatch):
    calls, real = [], regmean.solve_positive
    monkeypatch.setattr(regmean, "solve_positive", lambda *args: calls.append(1) or real(*args))
    family = build_method(compose_config(["method=regmean"]))(replace(inputs, keep=True, memo={}))
    for _ in range(3):
        vector = next(iter(family(0.5).values()))
        matrices = [vector[key] for key in vector]
    assert matrices and len(calls) == len([key for key in inputs.outline if inputs.is_matrix(key) and inputs.changed(key)])


def test_kfac_with_identity_outputs_is_regmean_and_regmean_with_identity_inputs_is_the_average(inputs):
    ones = {task: {key: torch.eye(len(leaf)) for key, leaf in entries.items()}
            for task, entries in inputs.statistics["gram_out"].items()}  # fmt: skip
    exact = "method=cg specify_lambda=1 method.precision=fp64 method.tolerance=1e-12 method.iterations=500"
    kfac = merged(with_statistics(inputs, gram_out=ones), exact)
    for key, leaf in merged(inputs, "method=regmean specify_lambda=1").items():
        torch.testing.assert_close(kfac[key], leaf, rtol=1e-5, atol=1e-6)
    flat = {task: {key: torch.eye(len(leaf)) for key, leaf in entries.items()}
            for task, entries in inputs.statistics["gram_in"].items()}  # fmt: skip
    average = merged(inputs, "method=average")
    for key, leaf in merged(with_statistics(inputs, gram_in=flat), "method=regmean specify_lambda=1").items():
        torch.testing.assert_close(leaf, average[key], rtol=1e-5, atol=1e-6)


def test_a_preconditioner_changes_the_way_and_not_the_end(inputs):
    exact = "method=cg specify_lambda=1 method.precision=fp64 method.tolerance=1e-12 method.iterations=500"
    plain, steps = merged(inputs, exact), {key: each.iterations for key, each in inputs.convergence.items()}
    preconditioned = merged(inputs, f"{exact} method.preconditioned=true")
    for key, leaf in plain.items():
        torch.testing.assert_close(preconditioned[key], leaf, rtol=1e-5, atol=1e-6)
    assert any(each.iterations != steps[key] for key, each in inputs.convergence.items())


def test_a_merged_model_is_a_start(inputs, tmp_path):
    start = merged(inputs, "method=sum specify_lambda=0.3")
    save_file({**inputs.pretrained, **start}, tmp_path / "m.safetensors")
    few = "method=cg specify_lambda=1 method.iterations=2"
    by_name = merged(inputs, f"{few} method.initialisation=sum method.initial_lambda=0.3")
    by_path = merged(replace(inputs, read_model=open_checkpoint), f"{few} method.initialisation={tmp_path}/m.safetensors")
    for key, leaf in by_name.items():
        torch.testing.assert_close(by_path[key], leaf, rtol=1e-5, atol=1e-6)


def test_traces_weigh_tasks_alike(inputs):
    first, *_ = inputs.tasks
    louder = {kind: {task: {key: leaf * (1e6 if task == first else 1) for key, leaf in entries.items()}
                     for task, entries in by_task.items()} for kind, by_task in inputs.statistics.items()}  # fmt: skip
    for options in ("method=fisher", "method=regmean specify_lambda=1", "method=cg specify_lambda=1"):
        options += " method.normalise=trace"
        quiet, loud = merged(inputs, options), merged(with_statistics(inputs, **louder), options)
        for key, leaf in quiet.items():
            torch.testing.assert_close(loud[key], leaf, rtol=1e-3, atol=1e-4)


def test_missing_statistics_are_named(inputs):
    with pytest.raises(UserError, match=r"needs statistics of kind gram_in.*statistics=\["):
        merged(with_statistics(inputs, gram_in=None), "method=regmean specify_lambda=1")
    first, *_ = inputs.tasks
    gram = {task: dict(entries) for task, entries in inputs.statistics["gram_in"].items()}
    key = next(iter(gram[first]))
    matrix = gram[first].pop(key)
    with pytest.raises(UserError, match=rf"gram_in of {first} lacks {key}"):
        merged(with_statistics(inputs, gram_in=gram), "method=regmean specify_lambda=1")
    gram[first][key] = matrix[:-1]
    with pytest.raises(UserError, match=rf"gram_in of {first} has shape .* in {key}"):
        merged(with_statistics(inputs, gram_in=gram), "method=regmean specify_lambda=1")
    gram[first][key] = torch.full_like(matrix, torch.nan)
    with pytest.raises(UserError, match=rf"gram_in of {first} holds NaN or infinite values in {key}"):
        merged(with_statistics(inputs, gram_in=gram), "method=regmean specify_lambda=1")


def with_statistics(inputs: MergeInputs, **kinds: dict | None) -> MergeInputs:
    statistics = {kind: entries for kind, entries in {**inputs.statistics, **kinds}.items() if entries is not None}
    return MergeInputs(inputs.pretrained, inputs.finetuned, inputs.depth, inputs.is_layer, inputs.device, False, statistics)


def test_a_solver_says_why_it_ended():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0]))
    target, start = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 7.0])
    found, convergence = solve(lambda x: matrix @ x, target, start, 1.0, 10, 1e-6)
    assert convergence.reason == CONVERGED and convergence.iterations == 3 and found.tolist() == pytest.approx([1, 1, 1, 7])
    _, convergence = solve(lambda x: matrix @ x, target, start, 1.0, 1, 1e-6)
    assert convergence.reason == LIMIT and convergence.final < convergence.initial
    root = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    full, far = root @ root.T + torch.eye(30), 1e4 * torch.ones(30)
    _, convergence = solve(lambda x: full @ x, full @ torch.ones(30), far, 1e3, 500, 1e-9)
    assert convergence.reason == STALLED and convergence.final > 2e-9  # rounding is larger than that
    found, convergence = solve(lambda x: matrix @ x, torch.tensor([0.0, 0.0, 0.0, 1.0]), start, 1.0, 10, 1e-6)
    assert convergence.reason == BREAKDOWN and torch.equal(found, start)
    found, convergence = solve(lambda x: matrix @ x, target, start, 1.0, 10, 1e-6, jacobi(matrix.diagonal()))
    assert convergence.reason == CONVERGED and convergence.iterations == 1
    (note,) = convergence_notes({"a": convergence, "b": convergence})
    assert "of 2 parameters 2 converged" in note and not convergence_notes({})


@pytest.mark.parametrize("rank", [1, 3, 5, 6])
def test_normal_equations_are_solved_where_they_can_be(rank):
    torch.manual_seed(rank)
    root = torch.randn(6, rank, dtype=torch.float64)
    solution = root @ torch.randn(rank, 2, dtype=torch.float64)  # in the range
    matrix = root @ root.T
    torch.testing.assert_close(solve_positive(matrix.clone(), matrix @ solution), solution, rtol=1e-6, atol=1e-8)
    assert not solve_positive(torch.zeros(3, 3).double(), torch.zeros(3, 2).double()).any()


def test_a_merge_that_was_killed_goes_on_at_the_parameter_it_was_at(inputs, tmp_path, monkeypatch):
    solved, real = [], cg.solve

    def counted(*args, **options):
        if len(solved) == 2 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        solved.append(args[1].shape)
        return real(*args, **options)

    options = "method=cg specify_lambda=1"
    whole, expected = merged(inputs, options), dict(inputs.convergence)
    monkeypatch.setattr(cg, "solve", counted)
    kept = SolvedEntries(tmp_path / "solved", ["these models"])
    with pytest.raises(KeyboardInterrupt):
        merged(replace(inputs, solved=kept, memo={}), options)
    (tmp_path / "again").touch()
    again = replace(inputs, solved=kept, memo={})
    found = merged(again, options)
    assert len(solved) == len(expected) and again.convergence == expected
    assert all(torch.equal(found[key], leaf) for key, leaf in whole.items())
    merged(replace(inputs, solved=kept, memo={}), f"{options} method.iterations=3")  # another question
    merged(replace(inputs, solved=kept, memo={}), "method=cg specify_lambda=0.5")
    other = replace(inputs, solved=SolvedEntries(kept.folder, ["other models"]), memo={})
    merged(other, options)
    assert len(solved) == 4 * len(expected)
    for file in kept.folder.iterdir():
        file.write_bytes(file.read_bytes()[:20])  # spoiled, as by a full disk: solved again
    merged(replace(inputs, solved=kept, memo={}), options)
    assert len(solved) == 5 * len(expected)
    (kept.folder / "thesis.txt").touch()
    kept.remove()
    assert [file.name for file in kept.folder.iterdir()] == ["thesis.txt"]
