"""Which benchmark a run's models, heads and data add up to, by their digests; and the sign that test data leaked.

Two benchmarks can carry one name: the first published TALL checkpoints were tested on a split of DTD that they had been
trained on. Numbers may share a table's column only where the digests agree; a name is a name for digests, never a guess.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.errors import UserError, raise_any
from src.evaluation.scorer import Score
from src.runtime.untrusted import read_yaml

UNKNOWN = "unknown"
FINETUNED = ("finetuned", "recipes")
ANY = "any"  # model, or digest
SECTIONS = ("model", "pretrained", "finetuned", "recipes", "tasks", "heads", "heads_from", "data")
GAP, ERRORS = 0.05, 4  # a leak is suspected where test is above validation by so much, and by so many standard errors


def read_manifests(paths: Iterable[Path]) -> list[tuple[str, dict]]:
    """Return the benchmarks that manifests name, in order.

    Each is (name, {model: {section: digests}}), with the sections of a lineage.

    Raise UserError for files that are no such manifests.
    """
    entries, problems = [], []
    for path in paths:
        try:
            manifest = read_yaml(path) or {}
            for name, models in manifest.items():
                for model, sections in (models or {}).items():
                    unknown = [section for section in sections if section not in SECTIONS]
                    if unknown:
                        problems.append(
                            f"{path}: {name}, {model} has unknown sections, {', '.join(unknown)}; they are {', '.join(SECTIONS)}"
                        )
                entries.append((str(name), models or {}))
        except UserError as error:
            problems += error.problems
        except (OSError, AttributeError, TypeError) as error:
            problems.append(f"{path} is no manifest of benchmarks ({error}); see config/lineage.yaml")
    raise_any(problems)
    return entries


def benchmark_of(lineage: Mapping, model: str, entries: Iterable[tuple[str, dict]]) -> str:
    """Return the name of the first benchmark all of whose digests for this model agree; `unknown` if there is none."""
    has_finetuned = lineage.get("finetuned") != {}  # else only the pre-trained model was scored
    for name, models in entries:
        for sections in (models.get(model), models.get(ANY)):
            expected = {
                section: digests for section, digests in (sections or {}).items() if has_finetuned or section not in FINETUNED
            }
            if expected and all(_agrees(lineage.get(section), digests) for section, digests in expected.items()):
                return name
    return UNKNOWN


def _agrees(ours: object, expected: object) -> bool:
    """Whether a section of a lineage, or one digest, is one that a manifest expects.

    ours: a digest, or a table of them, all of which have to agree.
    expected: a digest, a list of digests of which any will do, or ANY for whatever there is; for a table, one of these for
        all its entries, or a table of them by the entries' names.
    """
    if isinstance(ours, Mapping):
        if isinstance(expected, Mapping):
            return all(key in expected and _agrees(ours[key], expected[key]) for key in ours)
        return all(_agrees(value, expected) for value in ours.values())
    if expected == ANY:
        return ours is not None
    return ours in expected if isinstance(expected, list) else ours is not None and ours == expected


def leak_warnings(validation: Mapping[str, Score], test: Mapping[str, Score]) -> list[str]:
    """Return a warning for each task on which a fine-tuned model does far better on test data than on validation data."""
    warnings = []
    for task, score in test.items():
        held_out = validation[task]
        gap, error = score.accuracy - held_out.accuracy, math.sqrt(score.variance + held_out.variance)
        if gap > GAP and gap > ERRORS * error:
            warnings.append(
                f"warning: the fine-tuned model gets {100 * score.accuracy:.1f} % of {task}'s test data and "
                f"{100 * held_out.accuracy:.1f} % of its validation data right: it may have been trained on test data"
            )
    return warnings


def no_gain_warnings(zeroshot: Mapping[str, Score], finetuned: Mapping[str, Score]) -> list[str]:
    """Return a warning for each task on which the fine-tuned model is no better than the pre-trained one.

    It is a sign of weights, a head or data of something else.
    """
    return [
        f"warning: the fine-tuned model is no better than the pre-trained one on {task} ({100 * score.accuracy:.1f} and "
        f"{100 * zeroshot[task].accuracy:.1f} %): its weights, head or data may be another task's"
        for task, score in finetuned.items()
        if score.accuracy <= zeroshot[task].accuracy < 1
    ]
