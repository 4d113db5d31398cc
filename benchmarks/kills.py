"""What killing the program at random moments destroys, loses or leaves behind, and what two processes do to one result.

    python -m benchmarks.kills --count 100                13 minutes on two cores that others used, too
    python -m benchmarks.kills --count 12 --only bundle

The kinds are merges of files to a file, to shards and to a bundle, sweeps and fine-tunings of the demo, and conversions that
remove what they converted.

Each kind of work starts beside an earlier result, is killed by SIGKILL or SIGTERM at a random moment (half of them in the
last third, where most is written), and is run again to its end. After the kill all results are to be, to the bit, as before
or as those of a run that was left alone (`partly new`: some are one, some the other), and after the rerun all are to be new,
with no file beside them. `drafts` counts the kills that left hidden files, which the rerun is to remove; lock files stay.
Then two runs start at once on nothing. A third of the killed runs are new interpreters, the others are forked from one that
has imported the program. The exit status is 1 if anything was torn, unreadable, different or left behind.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.machine import parser_of
from benchmarks.wholeness import State, drafts, left_behind, list_files, locks, state_of, torn, unreadable
from command_line.console import ProgressBar
from src.runtime.environment import available_cores
from src.runtime.files import write_json
from tests.helpers.processes import kill_after, start_script

TASKS = "Positions,Arrows"
RECIPE = ("model.recipe.epochs=1", "model.recipe.lr=1e-3")
SWEEP = (f"DATASETS=[{TASKS}]", "n_eval_points=3", "model_location=../inputs/checkpoints", *RECIPE)
MERGE = ("model=files", "finetuned=[../inputs/a.safetensors,../inputs/b.safetensors]")
BASE, SHARDS = "pretrained=../inputs/base.safetensors", "pretrained=../inputs/base"

# Outcomes, as the tables name them: of both, of kills, of races.
TORN, UNREADABLE, LEFT, CHANGED = "torn", "unreadable", "left behind", "inputs changed"
LOCKS, BUG = "locks, which stay", "traceback or abort"
MISSED, EARLIER, SOME, NEW = "ended before it", "all as before", "partly new", "all new"
DRAFTS, COMPLETED, FAILED, DIFFERENT = "drafts", "rerun completed", "rerun failed", "rerun differs"
RACES, BOTH, SPEECHLESS = "races", "both completed", "no sentence"
OF_KILLS = ("SIGKILL", "SIGTERM", MISSED, EARLIER, SOME, NEW, TORN, UNREADABLE, DRAFTS)
OF_KILLS += (COMPLETED, FAILED, DIFFERENT, LEFT, LOCKS, CHANGED, BUG)
OF_RACES = (RACES, BOTH, SPEECHLESS, TORN, UNREADABLE, LEFT, LOCKS, CHANGED, BUG)

LONGEST = 900  # seconds after which a run hangs, and is killed
TRIES = 10  # for a kill to land before the run ends
BUG_SIGNS = ("Traceback", "terminate called", "Fatal Python error")


@dataclass(frozen=True)
class Kind:
    """A kind of work.

    script: the entry script.
    earlier: arguments of the run whose result is there before.
    later: arguments of the run that is killed, whose result takes the place of the earlier one or is added to it.
    is_whole: whether the folder that it writes appears at once, rather than each file.
    sources: folder of what it may remove, of which it gets a copy.
    """

    script: str
    earlier: tuple[str, ...]
    later: tuple[str, ...]
    is_whole: bool = False
    sources: str | None = None

    def state(self, work: Path) -> State:
        """Return the state of the results in a folder."""
        return state_of(work, (lambda path: path.parts[0]) if self.is_whole else str)


def merge_kind(*arguments: str) -> Kind:
    """Return a merge of files whose coefficient is another than the earlier result's."""
    return Kind("main.py", *((*MERGE, *arguments, f"specify_lambda={number}") for number in (0.3, 0.6)), is_whole=True)


KINDS = {
    "file": merge_kind(BASE, "output=merged.safetensors"),
    "shards": merge_kind(SHARDS, "output=merged"),
    "bundle": merge_kind(BASE, "method=tall_mask", "output_kind=bundle", "output=bundle"),
    "sweep": Kind("main.py", ("-m", "method=zeroshot", *SWEEP), ("-m", "method=zeroshot,sum", *SWEEP)),
    "fine-tuning": Kind(
        "finetune.py", *((f"--train-dataset={tasks}", "save_minutes=0.01", *RECIPE) for tasks in ("Positions", TASKS))
    ),
    "conversion": Kind("convert_checkpoints.py", ("pickles/0", "--remove"), ("pickles", "--remove"), sources="pickles"),
}


def make_inputs(folder: Path, with_checkpoints: bool) -> None:
    """Write small models to merge, `inputs`, and pickles to convert.

    with_checkpoints: whether a sweep needs fine-tuned models, too.
    """
    inputs, draw = folder / "inputs", torch.Generator().manual_seed(0)
    (inputs / "base").mkdir(parents=True)
    base = {f"blocks.{block}.weight": torch.randn(512, 1024, generator=draw) for block in range(12)}
    save_file(base, inputs / "base.safetensors")
    for name in ("a", "b"):
        tuned = {key: leaf + 0.1 * torch.randn(leaf.shape, generator=draw) for key, leaf in base.items()}
        save_file(tuned, inputs / f"{name}.safetensors")
    weight_map = {key: f"model-{number // 3}.safetensors" for number, key in enumerate(base)}
    for shard in set(weight_map.values()):
        save_file({key: leaf for key, leaf in base.items() if weight_map[key] == shard}, inputs / "base" / shard)
    write_json(inputs / "base/model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(inputs / "base/config.json", {"model_type": "random"})
    for number in range(4):
        pickle = folder / f"pickles/{number}/model.pt"
        pickle.parent.mkdir(parents=True)
        torch.save({key: leaf + number for key, leaf in list(base.items())[:4]}, pickle)
    if with_checkpoints:
        log = folder / "inputs.txt"
        complete(start_script("finetune.py", f"--train-dataset={TASKS}", *RECIPE, cwd=inputs, log=log), log)


def complete(process: BaseProcess, log: Path) -> None:
    """Wait for a run that nothing disturbs. Raise RuntimeError if it fails."""
    kill_after(process, LONGEST)
    if process.exitcode != 0:
        raise RuntimeError(f"a run that was left alone ended with {process.exitcode}:\n{log.read_text()}")


@dataclass
class Tally:
    """What happened in trials of one kind.

    counts: of trials, by outcome.
    problems: cases of faults, a sentence each.
    """

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def require_none(self, fault: str, cases: Sequence[str]) -> None:
        """Count a trial in which there are cases of a fault, and keep these."""
        self.counts[fault] += bool(cases)
        self.problems += [f"{fault}: {case}" for case in cases]


class Bench:
    """The trials of one kind of work, in a folder of its own.

    kills, races: what happened.
    """

    def __init__(self, name: str, kind: Kind, root: Path, draw: random.Random):
        self.kills, self.races = Tally(), Tally()
        self._kind, self._root, self._draw = kind, root, draw
        self._work = root / name
        self._inputs = self._input_stats()
        self._work.mkdir()
        if kind.sources:
            shutil.copytree(root / kind.sources, self._work / kind.sources)
        self._keep("start")
        self._complete(kind.earlier, fresh=False)
        self._earlier = kind.state(self._work)
        self._keep("earlier")
        self._seconds = {False: self._complete(kind.later, fresh=False)}  # of a run left alone, by whether it is fresh
        self._later, self._files = kind.state(self._work), list_files(self._work)
        if self._later == self._earlier:
            raise RuntimeError(f"{name}: both results are equal, so that nothing could be told from them")

    def kill(self, fresh: bool) -> None:
        """Kill a run at a random moment, check what it left, run it again to its end, and check the result."""
        tally, signal_sent = self.kills, self._draw.choice([signal.SIGKILL, signal.SIGTERM])
        if fresh not in self._seconds:
            self._restore("earlier")
            self._seconds[fresh] = self._complete(self._kind.later, fresh)
        for _ in range(TRIES):
            self._restore("earlier")
            started, longest = time.monotonic(), self._seconds[fresh]
            process, log = self._start(self._kind.later, fresh)
            moment = self._draw.uniform(self._draw.choice([0, 2 / 3]) * longest, longest)
            if landed := kill_after(process, moment, signal_sent):
                break
            self._seconds[fresh] = min(longest, time.monotonic() - started)  # it was faster than was known
        state = self._kind.state(self._work)
        tally.counts[signal_sent.name if landed else MISSED] += 1
        faults = torn(state, self._earlier, self._later)
        tally.counts[EARLIER if state == self._earlier else NEW if state == self._later else SOME] += not faults
        tally.require_none(TORN, faults)
        self._check_files(tally, log)
        tally.counts[DRAFTS] += bool(drafts(self._work))
        process, log = self._start(self._kind.later, fresh)
        kill_after(process, LONGEST)
        tally.counts[COMPLETED] += process.exitcode == 0
        tally.require_none(FAILED, [] if process.exitcode == 0 else [last_line(log)])
        tally.require_none(DIFFERENT, torn(self._kind.state(self._work), self._later, self._later))
        self._check_files(tally, log)
        self._check_rest(tally)

    def race(self) -> None:
        """Start the earlier and the later run at once on nothing, and check that every result is wholly one's."""
        tally = self.races
        self._restore("start")
        runs = [self._start(arguments, False, number) for number, arguments in enumerate((self._kind.earlier, self._kind.later))]
        for process, log in runs:
            kill_after(process, LONGEST)
            self._check_files(tally, log)
        failed = [log for process, log in runs if process.exitcode != 0]
        tally.counts[RACES] += 1
        tally.counts[BOTH] += not failed
        tally.require_none(SPEECHLESS, [last_line(log) for log in failed if "error: " not in log.read_text()])
        first = self._earlier if self._kind.is_whole else self._later  # else both results are there in the end
        tally.require_none(TORN, torn(self._kind.state(self._work), first, self._later))
        self._check_rest(tally)

    def _check_files(self, tally: Tally, log: Path) -> None:
        """Check that results can be read, and that a run printed nothing that only a bug prints."""
        tally.require_none(UNREADABLE, unreadable(self._work))
        tally.require_none(BUG, [last_line(log)] if any(sign in log.read_text() for sign in BUG_SIGNS) else [])

    def _check_rest(self, tally: Tally) -> None:
        """Check that nothing lies there but results and locks, and that the inputs are as they were."""
        tally.counts[LOCKS] += bool(locks(self._work))
        tally.require_none(LEFT, left_behind(self._work, self._files))
        tally.require_none(CHANGED, torn(self._input_stats(), self._inputs, self._inputs))

    def _start(self, arguments: Sequence[str], fresh: bool, number: int = 0) -> tuple[BaseProcess, Path]:
        """Return a run that was started, and the file of what it prints."""
        log = self._root / f"run{number}.txt"
        log.write_text("")  # it may be killed before it opens its log
        return start_script(self._kind.script, *arguments, cwd=self._work, log=log, fresh=fresh), log

    def _complete(self, arguments: Sequence[str], fresh: bool) -> float:
        """Run to the end; return the seconds."""
        started = time.monotonic()
        complete(*self._start(arguments, fresh))
        return time.monotonic() - started

    def _keep(self, name: str) -> None:
        shutil.copytree(self._work, self._kept(name))

    def _restore(self, name: str) -> None:
        shutil.rmtree(self._work)
        shutil.copytree(self._kept(name), self._work)

    def _kept(self, name: str) -> Path:
        return self._root / "kept" / self._work.name / name

    def _input_stats(self) -> State:
        """Return what shows, without reading the inputs, that they have not changed."""
        inputs = self._root / "inputs"
        stats = {str(path): (inputs / path).stat() for path in list_files(inputs)}
        return {path: f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for path, stat in stats.items()}


def last_line(log: Path) -> str:
    """Return the last line that a run printed."""
    return (log.read_text().splitlines() or ["nothing was printed"])[-1]


def table(title: str, outcomes: Sequence[str], tallies: Mapping[str, Tally]) -> Table:
    """Return how many trials of each kind, and of all, had each outcome."""
    result = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column(no_wrap=True)
    for heading in (*tallies, "all"):
        result.add_column(heading, justify="right")
    for outcome in outcomes:
        counts = [tally.counts[outcome] for tally in tallies.values()]
        result.add_row(outcome, *map(str, (*counts, sum(counts))))
    return result


def measure(kinds: Mapping[str, Kind], count: int, races: int, seed: int, folder: Path) -> dict[str, Bench]:
    """Return the benches of some kinds after `count` kills, dealt out in turn, and some races of each."""
    draw = random.Random(seed)
    make_inputs(folder, "sweep" in kinds)
    benches = {name: Bench(name, kind, folder, draw) for name, kind in kinds.items()}
    with ProgressBar(unit="trial") as progress:
        progress.plan(count + races * len(benches))
        for trial in range(count):
            name = list(benches)[trial % len(benches)]
            benches[name].kill(fresh=(trial + trial // len(benches)) % 3 == 0)  # each kind comes to be fresh
            progress.report(f"killing, {name}", 1)
        for name, bench in benches.items():
            for _ in range(races):
                bench.race()
                progress.report(f"two at once, {name}", 1)
    return benches


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--count", type=int, default=100, help="kills in all")
    parser.add_argument("--races", type=int, default=5, help="of two processes, for each kind")
    parser.add_argument("--only", choices=KINDS, help="only this kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    options = parser.parse_args()
    kinds = {options.only: KINDS[options.only]} if options.only else KINDS
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        benches = measure(kinds, options.count, options.races, options.seed, Path(name))
    console = Console()
    kills, races = ({kind: getattr(bench, trials) for kind, bench in benches.items()} for trials in ("kills", "races"))
    console.print(table("runs killed at a random moment", OF_KILLS, kills))
    console.print(table("two runs at once", OF_RACES, races))
    seconds, cores = time.monotonic() - started, available_cores()
    console.print(f"{seconds:.0f} s on {cores} cores, torch {torch.__version__}, seed {options.seed}", highlight=False)
    problems = [
        f"{kind}: {problem}" for tallies in (kills, races) for kind, tally in tallies.items() for problem in tally.problems
    ]
    for problem in problems:
        console.print(problem, highlight=False, soft_wrap=True, markup=False)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
