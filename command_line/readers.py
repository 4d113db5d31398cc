"""Which command reads which options; what the user typed and the command would ignore is refused."""

from command_line.overrides import parse_overrides, typed_overrides
from src.errors import raise_any

FILES, MERGE, FINETUNE = "main.py with model=files", "main.py", "finetune.py"
MERGES = frozenset((FILES, MERGE))
SCORE = frozenset((MERGE, "eval_single_task.py", "eval_task_negation.py", "eval_disentanglement.py"))
TRAIN = SCORE | {FINETUNE}  # weights that are missing are fine-tuned where models are scored, too

# The longest name that an option starts with counts.
READERS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("model", "pretrained", "finetuned", "device", "world_size", "results_dir", "plugins"), TRAIN | MERGES),
    **dict.fromkeys(("statistics",), MERGES),
    **dict.fromkeys(("method", "normalise", "specify_lambda", "output", "output_kind", "rank", "bundle", "analysis"), MERGES),
    "method.depth_pattern": MERGES - SCORE,
    **dict.fromkeys(("search", "n_eval_points", "eval_on"), MERGES & SCORE),
    **dict.fromkeys(("batch_size", "candidates_per_pass", "precision", "compile", "lineages"), SCORE),
    **dict.fromkeys(("skip_done",), SCORE),
    **dict.fromkeys(("tasks", "num_tasks", "DATASETS", "heads", "finetuning_mode"), TRAIN),
    **dict.fromkeys(("download", "data_location", "prompts_location", "model_location", "cache_dir"), TRAIN),
    **dict.fromkeys(("workers", "pixel_cache_gb"), TRAIN),
    **dict.fromkeys(("train_precision", "overwrite", "save_minutes", "log_steps", "tensorboard", "wandb"), TRAIN),
}


def refuse_unread(command: str) -> None:
    """Raise UserError for the options on this command line that the command does not read. An option of the user's passes."""
    raise_any(
        f"{override.input_line}: {command} does not read {name}; leave it out"
        for override in parse_overrides(typed_overrides())[0]
        if (name := unread_name(command, override.key_or_group))
    )


def unread_name(command: str, key: str) -> str | None:
    """Return the name in READERS of an option that a command does not read; None if it reads it, or it is the user's own."""
    parts = key.split(".")
    names = [name for length in range(len(parts), 0, -1) if (name := ".".join(parts[:length])) in READERS]
    return names[0] if names and command not in READERS[names[0]] else None
