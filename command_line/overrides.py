"""What a user typed, before Hydra makes a configuration of it: how a value is written, what cannot be read, what is repeated."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

PLAIN = re.compile(r"[A-Za-z0-9_./+@%-]*")  # Hydra takes it as it is, a number or null for itself
OPEN, CLOSE = "{[(", "}])"
PARSER = OverridesParser.create()


def expanded(text: str) -> str:
    """Return an override with its shorthand written out: `statistics=[A,B]` sets the files, as `statistics.files=[A,B]`."""
    key, equals, value = text.partition("=")
    return f"statistics.files={value}" if key == "statistics" and equals and not value.startswith("{") else text


def typed_overrides() -> list[str]:
    """Return the overrides of this run as they were typed, `${...}` in them included, without those of Hydra's own options."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


def quoted(key: str, value: object) -> str:
    """Return the override that sets `key` to this value, as it is typed in a shell.

    value: text, a path, a number, true, false, null, or lists and mappings of them; names in a mapping are plain, for the
        grammar has no quotes there.
    """
    return shell_word(override_text(key, value))


def override_text(key: str, value: object) -> str:
    """Return the override that sets `key` to a value, which is as of `quoted`, as Hydra's grammar has it."""
    return f"{key}={_written(value)}"


def shell_word(text: str) -> str:
    """Return text as one word of a shell's command line, in double quotes where single ones would be hard to read."""
    if "'" in text and not set(text) & set('"$`\\!\n'):
        return f'"{text}"'
    return shlex.quote(text)


def quoted_text(text: str) -> str:
    """Return text in quotes, as Hydra's grammar and OmegaConf's interpolations read it back."""
    escaped = re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)
    return QuotedString(escaped, Quote.double if "'" in text and '"' not in text else Quote.single).with_quotes()


def plain_or_quoted(text: str) -> str:
    """Return text as Hydra's grammar has it where numbers, true, false and null may be meant."""
    return text if PLAIN.fullmatch(text) else quoted_text(text)


def _written(value: object) -> str:
    """Return a value as Hydra's grammar has it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_written(each)}' for name, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if value is None or isinstance(value, bool | int | float):
        return "null" if value is None else str(value)
    text = str(value)
    is_text = text and PLAIN.fullmatch(text) and PARSER.parse_override(f"key={text}").value() == text
    return text if is_text else quoted_text(text)


def parse_overrides(texts: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Return the overrides that can be read, and a sentence for each that cannot."""
    overrides, problems, words = [], [], []
    for text in texts:
        override = _parsed(text)
        if override is not None and override.key_or_group:
            overrides.append(override)
        elif suggestion := _with_quotes(text):
            problems.append(f"{text} cannot be read; put the text in quotes: {shell_word(suggestion)}")
        elif "=" in text[1:] and _parsed(f"{text.partition('=')[0]}=1"):
            problems.append(f"{text} cannot be read; close brackets and quotes, and quote an option with spaces: 'key={{a: b}}'")
        else:
            words.append(text)
    if words:
        problems.append(f"{', '.join(words)}: an option is typed key=value, without spaces, or in quotes: \"key='some text'\"")
    return overrides, problems


def _parsed(text: str) -> Override | None:
    """Return an override; None if it cannot be read."""
    try:
        return PARSER.parse_overrides([text])[0]
    except HydraException:
        return None


def _with_quotes(text: str) -> str | None:
    """Return an override with quotes around what needs them; None if that does not help."""
    key, _, value = text.partition("=")
    is_open = value[:1] in ("'", '"') or sum(map(value.count, "{[")) != sum(map(value.count, "}]"))
    suggestion = f"{key}={_requoted(value)}"
    return suggestion if key and value and not is_open and _parsed(suggestion) else None


def _requoted(value: str) -> str:
    """Return a value with quotes around each text in it that Hydra's grammar cannot read."""
    value = value.strip()
    if _parsed(f"key={value}"):
        return value
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{','.join(map(_requoted, _split(value[1:-1])))}]"
    if value[:1] == "{" and value[-1:] == "}":
        pairs = (part.partition(":") for part in _split(value[1:-1]))
        return f"{{{', '.join(f'{name.strip()}: {_requoted(each)}' for name, _, each in pairs)}}}"
    return quoted_text(value)


def _split(text: str) -> list[str]:
    """Return the parts of a list or a mapping, which commas separate outside of quotes and inner brackets."""
    depth, quote, parts = 0, "", [""]
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += 0 if quote else (character in OPEN) - (character in CLOSE)
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


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


def _names(mapping: str) -> Iterator[str]:
    """Yield the names in a mapping as Hydra writes it: `{a: 1, b: {c: 2}}` has a and b."""
    for part in _split(mapping.strip()[1:-1]):
        name, colon, _ = part.partition(":")
        if colon:
            yield name.strip().strip("\"'")
