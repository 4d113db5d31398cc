"""What tests of datasets share: rows made small, and examples compared."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from src.data.class_names import synonyms
from src.data.vision import tasks as vision


def shrunk(patch, name, made, classes=None):
    """Let a dataset have been published with so few examples, and with those of its classes that are given."""
    row = vision.ROWS[name]
    known = [each for each in row.classes if each in classes] if classes else row.classes
    assert not classes or len(known) == len(classes)
    kept = {synonyms(each)[0] for each in known}
    aliases = {each: others for each, others in row.aliases.items() if each in kept}
    sizes = {part: len(examples) for part, examples in made.items() if part in row.sizes}
    patch.setitem(vision.ROWS, name, replace(row, count=len(known), sizes=sizes, classes=known, aliases=aliases))


def look(examples):
    """(pixel, label) of every example, read by several threads at once."""
    with ThreadPoolExecutor(4) as pool:
        return [(image.getpixel((3, 3)), label) for image, label in pool.map(lambda n: examples[n], range(len(examples)))]


def same(examples, expected):
    """The examples are the (grey, label) expected, in this order; a jpeg's grey is off by a little."""
    found = look(examples)
    assert [label for _, label in found] == [label for _, label in expected]
    greys = [pixel if isinstance(pixel, int) else pixel[0] for pixel, _ in found]
    assert all(abs(grey - wanted) <= 2 for grey, (wanted, _) in zip(greys, expected)), (greys, expected)
