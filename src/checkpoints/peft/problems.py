"""What is said of adapters that cannot be read: the way out that is always open, and a few of many names."""

WAY_OUT = "merge it with peft's merge_and_unload, save the model, and give that folder"
NAMED = 3  # of many names, as many as a sentence holds


def listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
