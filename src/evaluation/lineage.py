"""Which benchmark a run's models, heads and data add up to, by their digests; and the sign that test data leaked.

Two benchmarks can carry one name: the first published TALL checkpoints were tested on a split of DTD that they had been
trained on. Numbers may share a table's column only where the digests agree; a name is a name for digests, never a guess.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from src.errors import UserError
from src.evaluation.scorer import Score

UNKNOWN = "unknown"
OF_FINE_TUNED = ("finetuned", "recipes")
ANY = "any"  # model, or digest
SECTIONS = ("model", "pretrained", "finetuned", "recipes", "tasks", "heads", "heads_from", "data")
FAR, SURE = 0.05, 4  # a leak is suspected where test is above validation by so much, and by so many standard errors


def read_manifests(paths: Iterable[Path]) -> list[tuple[str, dict]]:
    """The benchmarks that manifests name, in order: {name: {model: {section: digests}}}, sections as in a lineage.

    Raises UserError for files that are no such manifests.
    """
    entries, problems = [], []
    for path in paths:
        try:
            found = yaml.safe_load(path.read_text()) or {}
            for name, models in found.items():
                for model, sections in (models or {}).items():
                    strange = [section for section in sections if section not in SECTIONS]
                    if strange:
                        problems.append(f"{path}: {name}, {model} has {', '.join(strange)}; sections are {', '.join(SECTIONS)}")
                entries.append((str(name), models or {}))
        except (OSError, yaml.YAMLError, AttributeError, TypeError) as reason:
            problems.append(f"{path} is no manifest of benchmarks ({reason}); see config/lineage.yaml")
    if problems:
        raise UserError(problems)
    return entries


def benchmark_of(lineage: Mapping, model: str, entries: Iterable[tuple[str, dict]]) -> str:
    """The name of the first benchmark all of whose digests for this model agree; `unknown` if there is none."""
    fine_tuned = lineage.get("finetuned") != {}  # else only the pre-trained model was looked at
    for name, models in entries:
        for sections in (models.get(model), models.get(ANY)):
            asked = {section: known for section, known in (sections or {}).items() if fine_tuned or section not in OF_FINE_TUNED}
            if asked and all(_agrees(lineage.get(section), known) for section, known in asked.items()):
                return name
    return UNKNOWN


def _agrees(ours: object, known: object) -> bool:
    """Whether everything of ours is known: of a table all entries, each by its name or by what holds for all; of a list
    any one; ANY means that there is something."""
    if isinstance(ours, Mapping):
        if isinstance(known, Mapping):
            return all(key in known and _agrees(ours[key], known[key]) for key in ours)
        return all(_agrees(value, known) for value in ours.values())
    if known == ANY:
        return ours is not None
    return ours in known if isinstance(known, list) else ours is not None and ours == known


def leaks(validation: Mapping[str, Score], test: Mapping[str, Score]) -> list[str]:
    """A warning for each task on which a fine-tuned model does far better on test data than on validation data."""
    found = []
    for task, score in test.items():
        held_out = validation[task]
        gap, error = score.accuracy - held_out.accuracy, math.sqrt(score.variance + held_out.variance)
        if gap > FAR and gap > SURE * error:
            found.append(
                f"warning: the fine-tuned model gets {100 * score.accuracy:.1f} % of {task}'s test data and "
                f"{100 * held_out.accuracy:.1f} % of its validation data right: it may have been trained on test data"
            )
    return found


def doubts(zeroshot: Mapping[str, Score], finetuned: Mapping[str, Score]) -> list[str]:
    """A warning for each task on which the fine-tuned model is no better than the pre-trained one: a sign of weights, a
    head or data of something else."""
    return [
        f"warning: the fine-tuned model is no better than the pre-trained one on {task} ({100 * score.accuracy:.1f} and "
        f"{100 * zeroshot[task].accuracy:.1f} %): its weights, head or data may be another task's"
        for task, score in finetuned.items()
        if score.accuracy <= zeroshot[task].accuracy < 1
    ]
