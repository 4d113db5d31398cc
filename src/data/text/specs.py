"""The text tasks of the papers: the eight of P3, three more that TIES merges, and four of GLUE.

Splits are those of MaTS: its test rows are the Hub's validation rows (of qasc, too), its validation rows the last of the
Hub's training rows, in the order of the files. A copy is pinned to a commit when it is first downloaded.
"""

from functools import partial
from operator import itemgetter

from src.data.hub_copy import HubCopy
from src.data.text.spec import Field, TextSpec

CONVERTED = "refs/convert/parquet"  # the branch in which the Hub converts datasets that are published as scripts


def _copy(
    repository: str, configuration: str = "", subsets: tuple[str, str] = ("train", "validation"), revision: str | None = None
) -> HubCopy:
    """Return a repository of parquet files.

    configuration: the folder that the files lie in; any if there is one only.
    subsets: what the files of training and test rows are called.
    """
    return HubCopy(repository, tuple(f"{configuration}*{subset}*.parquet" for subset in subsets), revision)


def _number(column: str, first: int = 0) -> Field:
    """Return the label of a column that counts from `first`."""
    return Field(column, partial(_counted, first))


def _counted(first: int, value: object) -> int:
    return int(value) - first


def _letter(column: str) -> Field:
    """Return the label of a column that has A for 0."""
    return Field(column, "ABCDEFGH".index)


def _glue(name: str, train: int, test: int, subsets: tuple[str, str] = ("train", "validation")) -> TextSpec:
    sizes = {"train": train, "test": test}
    return TextSpec(name, f"glue/{name}", [_copy("nyu-mll/glue", f"{name}/", subsets)], sizes, label=_number("label"))


_SPECS = (
    TextSpec(
        "cosmos_qa", "cosmos_qa", [_copy("allenai/cosmos_qa", revision=CONVERTED), _copy("Samsoup/cosmos_qa")],
        {"train": 25262, "test": 2985}, label=_number("label"),
    ),
    TextSpec(
        "social_iqa", "social_i_qa", [_copy("allenai/social_i_qa", revision=CONVERTED), _copy("lighteval/siqa")],
        {"train": 33410, "test": 1954}, label=_number("label", 1),
        ignored=("Check if a random answer is valid or not",),  # which chooses between two other answers
    ),
    TextSpec(
        "paws", "paws/labeled_final", [_copy("google-research-datasets/paws", "labeled_final/")],
        {"train": 49401, "test": 8000}, label=_number("label"),
    ),
    TextSpec(
        "quail", "quail", [_copy("textmachinelab/quail")], {"train": 10246, "test": 2164}, label=_number("correct_answer_id")
    ),
    TextSpec("wiki_qa", "wiki_qa", [_copy("microsoft/wiki_qa")], {"train": 20360, "test": 2733}, label=_number("label")),
    TextSpec(
        "quartz", "quartz", [_copy("allenai/quartz")], {"train": 2696, "test": 384}, held_out=200, label=_letter("answerKey")
    ),
    TextSpec("qasc", "qasc", [_copy("allenai/qasc")], {"train": 8134, "test": 926}, held_out=500, label=_letter("answerKey")),
    TextSpec(
        "ropes", "ropes", [_copy("allenai/ropes", "plain_text/")], {"train": 10924, "test": 1688},
        references=Field("answers", itemgetter("text")), metrics=("Squad",),
    ),
    TextSpec(
        "story_cloze", "story_cloze/2016", (), {"train": 1871, "test": 1871}, label=_number("answer_right_ending", 1),
        roles={"train": "val", "test": "test"},
        columns={
            **{f"input_sentence_{number}": f"InputSentence{number}" for number in range(1, 5)},
            **{f"sentence_quiz{number}": f"RandomFifthSentenceQuiz{number}" for number in (1, 2)},
            "answer_right_ending": "AnswerRightEnding",
        },
        layout="val.csv and test.csv (of spring 2016, which https://cs.rochester.edu/nlp/rocstories gives on request)",
    ),
    TextSpec(
        "winogrande", "winogrande/winogrande_xl", [_copy("allenai/winogrande", "winogrande_xl/", revision=CONVERTED)],
        {"train": 40398, "test": 1267}, label=_number("answer", 1),
    ),
    TextSpec(
        "wsc", "super_glue/wsc.fixed",
        [_copy("aps/super_glue", "wsc.fixed/"), _copy("aps/super_glue", "wsc.fixed/", revision=CONVERTED)],
        {"train": 554, "test": 104}, held_out=100, label=_number("label"),
    ),
    _glue("mnli", 392702, 9815, ("train", "validation_matched")),
    _glue("qnli", 104743, 5463),
    _glue("qqp", 363846, 40430),
    _glue("rte", 2490, 277),
)  # fmt: skip

SPECS = {spec.name: spec for spec in _SPECS}
