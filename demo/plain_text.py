"""The plain questions that the text demo's T5 is pre-trained on: knowledge of words, and facts to look up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from src.data.text.demo.words import (
    BLAME,
    COLOURS,
    DAYS,
    NAMES,
    NUMBERS,
    OPPOSITES,
    PLACES,
    PRAISE,
    QUALITIES,
    THINGS,
    TOPICS,
)

Question = tuple[str, str]  # and its answer
Draw = Callable[[Random], Question]


@dataclass(frozen=True)
class Lookup:
    """A question about one of three facts, each of which gives a key its value."""

    fact: str
    question: str
    keys: Sequence[str]
    values: Sequence[str]

    def __call__(self, random: Random) -> Question:
        facts = list(zip(random.sample(self.keys, 3), random.sample(self.values, 3), strict=True))
        key, value = random.choice(facts)
        passage = " ".join(self.fact.format(*fact) for fact in facts)
        return f"{passage} {self.question.format(key)}", value


def _speech(random: Random) -> Question:
    names, colours = random.sample(NAMES, 2), random.sample(COLOURS, 2)
    things, qualities = random.sample(THINGS, 2), random.sample(QUALITIES, 2)
    sentences = [f"{colour} {thing} is {quality}" for colour, thing, quality in zip(colours, things, qualities, strict=True)]
    asked = random.randrange(2)
    passage = " ".join(f"{name} says: {sentence}." for name, sentence in zip(names, sentences, strict=True))
    return f"{passage} what says {names[asked]}?", sentences[asked]


def _topic(random: Random) -> Question:
    topic = random.choice(tuple(TOPICS))
    words = random.sample(TOPICS[topic], random.randint(1, 3))
    return f"what are {', '.join(words)} about?", topic


def _opposite(random: Random) -> Question:
    word, answer = random.sample(random.choice(OPPOSITES), 2)
    return f"what is not {word}?", answer


def _polarity(random: Random) -> Question:
    is_praise, is_negated = random.random() < 0.5, random.random() < 0.4
    word = random.choice(PRAISE if is_praise else BLAME)
    return f"is {'not ' if is_negated else ''}{word} good or bad?", "good" if is_praise != is_negated else "bad"


def _odd(random: Random) -> Question:
    topic, other = random.sample(tuple(TOPICS), 2)
    odd = random.choice(TOPICS[other])
    words = random.sample([*random.sample(TOPICS[topic], 2), odd], 3)
    return f"which is odd, {words[0]}, {words[1]} or {words[2]}?", odd


def _sum(random: Random) -> Question:
    first, second = random.randint(1, 9), random.randint(1, 9)
    return f"{NUMBERS[first]} plus {NUMBERS[second]}?", NUMBERS[first + second]


# Easiest to learn from nothing first.
QUESTIONS: tuple[Draw, ...] = (
    Lookup("{} is in the {}.", "where is {}?", NAMES, PLACES),
    Lookup("the {} is painted {}.", "what colour is the {}?", THINGS, COLOURS),
    Lookup("{} came on {}.", "when did {} come?", NAMES, DAYS),
    Lookup("the {} belongs to {}.", "who has the {}?", THINGS, NAMES),
    Lookup("{} is for {}.", "who is on {}?", DAYS, NAMES),
    Lookup("{} has got {}.", "how many has {}?", NAMES, NUMBERS[1:10]),
    _speech,
    _topic,
    _opposite,
    _polarity,
    _sum,
    _odd,
)


@dataclass(frozen=True)
class Repetition:
    """Three to five words to repeat, so that every word is read and written."""

    words: Sequence[str]

    request: ClassVar[str] = "repeat {}"

    def __call__(self, random: Random) -> Question:
        words = " ".join(random.sample(self.words, random.randint(3, 5)))
        return self.request.format(words), words
