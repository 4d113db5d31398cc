"""Download the published checkpoints of the twenty image tasks, with their heads, or their TALL masks; say where MaTS' are.

    python download_checkpoints.py --model=ViT-B-32 --kind=checkpoints
    python download_checkpoints.py --model=ViT-L-14 --kind=tall_masks
    python download_checkpoints.py --model=ViT-B-16 --kind=checkpoints --source=drive      needs gdown
    python download_checkpoints.py --model=t5-large-lm-adapt                               in a bucket, and copied by hand

They come to the folder that main.py reads (--model-location) and are used there as they lie. What was interrupted goes
on where it stopped; what is there is not fetched again. HF_ENDPOINT names a mirror of the Hub.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import published_tasks
from command_line.console import ProgressBar, run_script
from src.checkpoints import mats
from src.checkpoints.opening import open_all
from src.checkpoints.published import SERVED_MODELS, PublishedFiles
from src.checkpoints.shards import PICKLED
from src.downloads.drive import FOLDERS, fetch_folder
from src.downloads.hub import fetch
from src.errors import UserError, plural, raise_any
from src.pickles.archives import check_contents
from src.pickles.mask_arrays import read_arrays
from src.runtime.files import expand_path

REPOSITORY = "nik-dim/tall_masks"
ENDINGS = {"checkpoints": (".pt", ".safetensors"), "tall_masks": (".npy",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=[*SERVED_MODELS, *mats.STEPS])
    parser.add_argument("--kind", choices=list(ENDINGS), help="needed but for text models, which have checkpoints alone")
    parser.add_argument("--source", default="hub", choices=["hub", "drive"], help="Hugging Face, or Google Drive")
    parser.add_argument("--model-location", default="checkpoints", help="as main.py's model_location")
    options = parser.parse_args()
    models = expand_path(options.model_location)
    if options.model in mats.STEPS:
        check_bucket(models, options.model)
        return
    if options.kind is None:
        raise UserError(f"--kind is needed: {' or '.join(ENDINGS)}")
    if options.source == "drive":
        folder = models / options.model if options.kind == "checkpoints" else models / "tall_masks" / options.model
        fetch_folder(FOLDERS[options.kind, options.model], folder)
        print(f"{folder}: verifying checksums", flush=True)  # the Hub's files are verified during download
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (*PICKLED, ".npy"))
        check_all(check_contents, paths)
    else:
        patterns = [SERVED_MODELS[options.model] + ending for ending in ENDINGS[options.kind]]
        with ProgressBar(unit="B") as progress:
            commit = fetch(REPOSITORY, "model", patterns, models / REPOSITORY, progress=progress)
        print(f"{REPOSITORY} at {commit}: {models / REPOSITORY}")
    published = PublishedFiles(models, options.model)
    (check_masks if options.kind == "tall_masks" else check_checkpoints)(published, options.model)


def check_checkpoints(published: PublishedFiles, model: str) -> None:
    """Open all encoders and heads. Raise UserError with all that cannot be opened, or else with all that is missing."""
    tasks = published_tasks()
    files = {f"{task}'s encoder": path for task in tasks if (path := published.finetuned(task))}
    files |= {f"{task}'s head": path for task in tasks if (path := published.head(task))}
    zeroshot = published.zeroshot()
    open_all({**files, **({"zero-shot": zeroshot} if zeroshot else {})})
    print(f"{model}: {len(files)} of {2 * len(tasks)} encoders and heads are there, and all of them open")
    print(f"the model they start from: {zeroshot or 'none among them; it is the one open_clip calls openai'}")
    raise_any(
        f"no {kind} of {model} was found for {', '.join(missing)}; run this again, take the other --source, or make the encoders "
        f"with python finetune.py --model={model} --train-dataset={missing[0]}"
        for kind, missing in published.missing(tasks).items()
        if missing
    )


def check_bucket(models: Path, model: str) -> None:
    """Open the checkpoints of MaTS that were copied. Raise UserError if there are none, with where they are."""
    published = PublishedFiles(models, model)
    files = {f"{task} ({mode})": path for mode, steps in mats.STEPS[model].items() for task in steps
             if (path := published.finetuned(task, mode))}  # fmt: skip
    if not files:
        raise UserError(
            f"the checkpoints of {model} lie in a bucket that is not read from here: copy {mats.BUCKET}/exp_out/p3 to "
            f"{models}/exp_out/p3 as it is there ({mats.PAGE}), and main.py finds them; its models in exp_out/merging and "
            "exp_out/p3_eight_qa are scored wherever they are, with method=given method.weights=FILE"
        )
    open_all(files)
    print(f"{model}: {len(files)} checkpoints are there, and all of them open: {', '.join(files)}")


def check_masks(published: PublishedFiles, model: str) -> None:
    """Read all mask files. Raise UserError if there is none, or with all that cannot be read."""
    masks = published.masks()
    raise_any([] if masks else [f"there are no TALL masks of {model} in what was downloaded"])
    check_all(lambda path: print(f"{path}: masks of {plural(len(read_arrays(path)), 'task')}"), masks)


def check_all(check: Callable[[Path], None], paths: Iterable[Path]) -> None:
    """Call `check` on all files. Raise UserError with the problems of all of them at once."""
    problems: list[str] = []
    for path in paths:
        try:
            check(path)
        except UserError as reason:
            problems += reason.problems
    raise_any(problems)


if __name__ == "__main__":
    sys.exit(run_script(main))
