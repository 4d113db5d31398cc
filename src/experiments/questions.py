"""Questions of records, the options that decide a result, as versions with fewer options ask them, too."""

from collections.abc import Mapping

# What runs did before there was an option of this name, of a method or of all: records say only what is done otherwise.
USUAL = {
    "apply_svc": False,
    "svc_alpha": None,
    "step_order": ["svc", "lines"],
    "matrices": "layers",
    "attention": "packed",
    "rest": "average",
    "scope": "vector",
    "normalise": None,
    "space": None,
}


def without_usual(node: object) -> object:
    """Return a question without the options that later versions added and that have their usual values."""
    if not isinstance(node, Mapping):
        return node
    return {key: without_usual(value) for key, value in node.items() if key not in USUAL or USUAL[key] != value}
