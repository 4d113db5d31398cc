"""What the examples of the text demo are about, apart from how they are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from src.data.text.demo.words import (
    BLAME,
    COLOURS,
    DAYS,
    NAMES,
    NUMBERS,
    PLACES,
    PRAISE,
    QUALITIES,
    REVIEWED,
    THINGS,
    TOPICS,
)


@dataclass(frozen=True)
class Content:
    """A passage, whatever its question names, and the answer.

    fields: of a task's templates, by name.
    choices: () where the answer is generated.
    """

    fields: dict[str, str]
    answer: str
    choices: tuple[str, ...] = ()


def news(random: Random) -> Content:
    """Three words of a topic and one of another."""
    topic, other = random.sample(tuple(TOPICS), 2)
    words = _shuffled(random, [*random.sample(TOPICS[topic], 3), random.choice(TOPICS[other])])
    wordings = (
        "the {} and the {} came before the {}, not far from the {}",
        "they spoke of the {}, the {} and the {}, then saw a {}",
        "after the {} a {} was near the {}, but had no {}",
    )
    return Content({"report": random.choice(wordings).format(*words)}, topic, tuple(TOPICS))


def reviews(random: Random) -> Content:
    """Three opinions, of which at least two agree."""
    verdict = random.choice(("positive", "negative"))
    opinions = _shuffled(random, [verdict, verdict, random.choice(("positive", "negative"))])
    parts = []
    for subject, opinion in zip(random.sample(REVIEWED, 3), opinions, strict=True):
        is_negated = random.random() < 0.3
        words = PRAISE if (opinion == "positive") != is_negated else BLAME
        parts.append(f"the {subject} was {'not ' if is_negated else ''}{random.choice(words)}")
    return Content({"review": ", ".join(parts)}, verdict, ("positive", "negative"))


def odd(random: Random) -> Content:
    """Four words of a topic and one of another."""
    topic, other = random.sample(tuple(TOPICS), 2)
    stranger = random.choice(TOPICS[other])
    words = _shuffled(random, [*random.sample(TOPICS[topic], 4), stranger])
    return Content({"words": ", ".join(words)}, stranger, words)


def rooms(random: Random) -> Content:
    """Three people, each in a place."""
    wordings = ("{} walked into the {}.", "{} slept in the {}.", "{} hid in the {}.", "{} left for the {}.")
    return _facts(random, "name", NAMES, PLACES, wordings)


def shades(random: Random) -> Content:
    """Three things, each in a colour."""
    things, colours = random.sample(THINGS, 3), random.sample(COLOURS, 4)
    first, second, third = (f"a {thing} in {colour}" for thing, colour in zip(things, colours, strict=False))
    passage = f"{random.choice(NAMES)} bought {first}, {second} and {third}."
    asked = random.randrange(3)
    return Content({"passage": passage, "thing": things[asked]}, colours[asked], _shuffled(random, colours))


def diary(random: Random) -> Content:
    """Three days, each with a person."""
    return _facts(random, "day", DAYS, NAMES, ("{}: visit {}.", "{}: call {}.", "{}: meet with {}.", "{}: write to {}."))


def sums(random: Random) -> Content:
    """Two numbers of things, and their sum."""
    first, second = random.randint(1, 9), random.randint(1, 9)
    finder, other = random.sample(NAMES, 2)
    wordings = ("{} found {} and {} found {}, each a {}.", "{} lost {} and {} took {}, always a {}.")
    passage = random.choice(wordings).format(finder, NUMBERS[first], other, NUMBERS[second], random.choice(THINGS))
    total = first + second
    near = [number for number in range(max(total - 4, 0), min(total + 5, len(NUMBERS))) if number != total]
    numbers = _shuffled(random, [NUMBERS[number] for number in (total, *random.sample(near, 3))])
    return Content({"passage": passage}, NUMBERS[total], numbers)


def notes(random: Random) -> Content:
    """What each of two people wrote."""
    names, colours = random.sample(NAMES, 2), random.sample(COLOURS, 2)
    things, qualities = random.sample(THINGS, 2), random.sample(QUALITIES, 2)
    sentences = [f"{colour} {thing} is {quality}" for colour, thing, quality in zip(colours, things, qualities, strict=True)]
    passage = " ".join(f"from {name}: {sentence}." for name, sentence in zip(names, sentences, strict=True))
    asked = random.randrange(2)
    return Content({"passage": passage, "name": names[asked]}, sentences[asked])


def _facts(random: Random, field: str, subjects: Sequence[str], answers: Sequence[str], wordings: Sequence[str]) -> Content:
    """Three subjects, each with what is said of it, one of which is asked for; a fourth answer is said of none.

    field: of a template, that the subject goes into.
    """
    chosen, choices = random.sample(subjects, 3), random.sample(answers, 4)
    passage = " ".join(random.choice(wordings).format(*fact) for fact in zip(chosen, choices, strict=False))
    asked = random.randrange(3)
    return Content({"passage": passage, field: chosen[asked]}, choices[asked], _shuffled(random, choices))


def _shuffled(random: Random, items: Sequence[str]) -> tuple[str, ...]:
    return tuple(random.sample(items, len(items)))
