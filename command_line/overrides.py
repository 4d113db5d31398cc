"""What a user typed, before Hydra makes a configuration of it."""

from collections import Counter
from collections.abc import Iterator, Sequence


def repetitions(overrides: Sequence[str]) -> list[str]:
    """Return a sentence for each option, and each name within one, that is given twice: Hydra would keep the last.

    overrides: as they were typed, `key=value`.
    """
    counts = Counter(
        text.split("=")[0].lstrip("+") for text in overrides if not text.startswith("~")
    )  # ~a +a=1 is a way to replace
    problems = [f"{key} is given {count} times; give it once" for key, count in counts.items() if count > 1]
    for text in overrides:
        key, _, value = text.partition("=")
        names = Counter(_names(value)) if value.startswith("{") else {}
        problems += [f"{key}= names {name} {count} times; name each once" for name, count in names.items() if count > 1]
    return problems


def _names(value: str) -> Iterator[str]:
    """Yield the names in a dictionary as Hydra writes it: `{a: 1, b: {c: 2}}` has a and b."""
    depth, quote, name = 0, "", ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "{[(":
            depth, name = depth + 1, ""
            continue
        elif character in "}])":
            depth -= 1
        elif depth == 1 and character == ",":
            name = ""
            continue
        elif depth == 1 and character == ":" and name:
            yield name.strip().strip("\"'")
            name = ""
            continue
        name += character
