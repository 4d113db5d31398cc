"""Hostile YAML: files that hang, fill the memory or break the reader that takes them for settings."""

from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], None]


def commands(path: Path) -> list[list[str]]:
    """Return the command line that reads a file as a manifest of benchmarks."""
    return [["main.py", f"lineages='hostile/{path.name}'"]]


def text(content: str) -> Write:
    """Return what writes a text, lone surrogates included."""
    return lambda path: path.write_bytes(content.encode("utf-8", "surrogatepass"))


def laughs(levels: int, wide: int, start: str, end: str, item: str = "lol") -> str:
    """Return lists or mappings that each hold the one before, `wide` times."""
    lines = [f"a0: &a0 {item}"]
    for level in range(1, levels):
        inner = ", ".join(f"{f'k{number}: ' * (start == '{')}*a{level - 1}" for number in range(wide))
        lines.append(f"a{level}: &a{level} {start}{inner}{end}")
    return "\n".join(lines) + "\n"


FILES: dict[str, Write] = {
    "billion laughs, lists": text(laughs(10, 10, "[", "]")),
    "billion laughs, mappings": text(laughs(10, 10, "{", "}")),
    "doublings": text(laughs(64, 2, "[", "]")),
    "one long text many times": text("a: &a " + "x" * 500_000 + "\nb: [" + "*a, " * 10_000 + "]\n"),
    "a long list many times": text("a: &a [" + "1, " * 5_000 + "]\nb: [" + "*a, " * 5_000 + "]\n"),
    "merged keys that double": text(
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    ),
    "an alias within itself": text("a: &a [*a]\n"),
    "an alias within itself, deeper": text("a: &a {b: {c: [1, *a]}}\n"),
    "a merged key within itself": text("a: &a {<<: *a}\n"),
    "deep lists": text("a: " + "[" * 100 + "]" * 100 + "\n"),
    "very deep lists": text("a: " + "[" * 400_000 + "\n"),
    "deep mappings": text("a: " + "{a: " * 900 + "1" + "}" * 900 + "\n"),
    "deep blocks": text("".join(f"{' ' * level}a:\n" for level in range(900))),
    "deep dashes": text("- " * 3_000 + "1\n"),
    "many entries": text("a: [" + "1, " * 300_000 + "]\n"),
    "a number of many digits": text("a: " + "9" * 100_000 + "\n"),
    "a date that is none": text("a: 2024-99-99\n"),
    "a tag of python": text("a: !!python/object/apply:os.system ['touch executed']\n"),
    "a tag of a module": text("a: !!python/module:antigravity\n"),
    "a tag that does not fit": text("a: !!int many\n"),
    "half a character": text('a: "\\ud800"\n'),
    "a name that is half a character": text('"\\udfff": 1\n'),
    "bytes that are no text": lambda path: path.write_bytes(b"a: \xff\xfe\x00\x01\n"),
    "a null character": text("a: b\0c\n"),
    "an unknown alias": text("a: *nobody\n"),
    "an open quote": text('a: "' + "x" * 10_000),
    "a list as a key": text("{[a]: 1}: 2\n"),
    "several documents": text("a: 1\n---\nb: 2\n"),
    "many megabytes": lambda path: path.write_bytes(b"#" * 2**24),
    "an endless file": lambda path: path.symlink_to("/dev/zero"),
}
