"""What tests of datasets share: published sizes made small, and examples compared."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from src.data.class_names import synonyms
from src.data.vision import tasks as vision


def shrink(patch, name, examples, classes=None):
    """Let a dataset have been published with as many examples as these, and with those of its classes that are given."""
    spec = vision.SPECS[name]
    names = [class_name for class_name in spec.classes if class_name in classes] if classes else spec.classes
    assert not classes or len(names) == len(classes)
    first_names = {synonyms(class_name)[0] for class_name in names}
    aliases = {first: others for first, others in spec.aliases.items() if first in first_names}
    sizes = {subset: len(examples[subset]) for subset in examples if subset in spec.sizes}
    patch.setitem(vision.SPECS, name, replace(spec, class_count=len(names), sizes=sizes, classes=names, aliases=aliases))


def pixels_and_labels(examples):
    """Return the (pixel, label) of every example, read by several threads at once."""
    with ThreadPoolExecutor(4) as pool:
        return [(image.getpixel((3, 3)), label) for image, label in pool.map(lambda n: examples[n], range(len(examples)))]


def assert_same(examples, expected):
    """Assert that the examples are the (grey, label) expected, in this order; a jpeg's grey is off by a little."""
    pixels = pixels_and_labels(examples)
    assert [label for _, label in pixels] == [label for _, label in expected]
    greys = [pixel if isinstance(pixel, int) else pixel[0] for pixel, _ in pixels]
    assert all(abs(grey - other) <= 2 for grey, (other, _) in zip(greys, expected)), (greys, expected)
