"""The budget of a merge: what its method uses beside the checkpoints, as far as the record says it."""

from collections.abc import Mapping

from src.reports.page.lenient import at, items, mapping, number, text
from src.reports.records import UNLABELLED, data_of


def budget(record: Mapping) -> dict[str, str]:
    """Return what a merge uses, each with a sentence on how: `labels`, `data`, `gradients`, `statistics`, `identity`.

    labels: of validation or training data.
    data: of any split, labels or not.
    identity: of an example's task, at inference.
    """
    statistics = mapping(at(record, "question", "statistics"))
    uses, where, data = {}, "", data_of(record)
    if evaluations := number(at(record, "evaluations", "made")) or len(items(record.get("validation"))):
        uses["labels"] = f"validation labels: {evaluations:g} coefficients scored"
    elif at(record, "lineage", "masks") and at(record, "question", "method", "mask_lambda") is None:
        uses["labels"] = "validation labels: lambdas of the masks that were loaded"
    if statistics:
        where = f"{text(statistics.get('examples'))} examples a task of {text(statistics.get('split'))}"
        uses["statistics"] = f"statistics of {where}"
        if not data.startswith(UNLABELLED):
            uses.setdefault("labels", f"labels of {where}")
    elif data.startswith(UNLABELLED):
        where = f"{data} examples"
    if where and record.get("uses_gradients") is not False:  # of a record that does not say it, the worse is shown
        uses["gradients"] = f"gradients on {where}"
    if "labels" in uses or where:
        uses["data"] = f"data: {where or 'validation'}"
    if record.get("storage"):
        uses["identity"] = "task identity at inference: a model for each task"
    return uses
