"""What a text model reads and answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextExample:
    """One templated example: what a text model reads, and what it should answer.

    input: the prompt.
    target: the right answer.
    choices: the answers to choose among; () where the answer is generated.
    label: the index of the right choice; None without choices.
    references: answers that count as right where the answer is generated.
    key: (number of the row in its split, number of the template): tells examples of a split apart.
    """

    input: str
    target: str
    choices: tuple[str, ...] = ()
    label: int | None = None
    references: tuple[str, ...] = ()
    key: tuple[int, int] = (0, 0)
