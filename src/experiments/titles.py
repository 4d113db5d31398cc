"""What tables and titles call a method with its options."""

from collections.abc import Mapping, Sequence

STEPS = {"svc": "SVC", "lines": "LiNeS"}  # after a merge, by the options apply_NAME, with what titles call them


def format_method(name: str, options: Mapping, normalise: str | None = None) -> str:
    """Return a method with what comes before and after it, for titles: `ties`, `sum (equal norms) + SVC + LiNeS`.

    options: of the method, as records have them; the first ones have no order of steps.
    """
    order = options.get("step_order")
    steps = [step for step in (order if isinstance(order, Sequence) else STEPS) if step in STEPS]
    applied = [STEPS[step] for step in steps if options.get(f"apply_{step}") is True]
    return " + ".join([f"{name} (equal {normalise})" if normalise else name, *applied])
