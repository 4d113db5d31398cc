"""model=files: merge state dicts from disk, of any architecture; nothing is scored."""

import time
from pathlib import Path

from omegaconf import DictConfig

from command_line.output import publish_analysis
from command_line.paths import file_sources
from command_line.readers import FILES, refuse_unread
from command_line.sweeps import claim_output
from command_line.unscored import prepare_merge, write_merge
from src.errors import UserError, plural
from src.merging.engine.conjugate_gradient import convergence_notes
from src.runtime.environment import is_distributed
from src.runtime.files import expand_path


def merge_files(config: DictConfig) -> None:
    """Merge state dicts from disk into `output`, streaming; nothing is scored."""
    if is_distributed() or (config.world_size or 1) > 1:
        raise UserError("model=files is merged by one process; leave world_size out, and start main.py without torchrun")
    refuse_unread(FILES)
    started = time.monotonic()
    pretrained, finetuned = file_sources(config)
    merge = prepare_merge(config, pretrained, finetuned, {}, print)
    if merge.masks:
        print(f"masks: {merge.masks}")
    claim_output(config.output)
    write_merge(config, merge, print)
    count = plural(len(finetuned), "model")
    if config.analysis:
        folder = expand_path(config.results_dir) / f"{Path(config.output).stem}-analysis"
        publish_analysis(merge.inputs, merge.merges.masks_at(merge.coefficients), count, folder)
    for sentence in convergence_notes(merge.inputs.convergence):
        print(sentence)
    print(f"{config.output}: {count} merged in {time.monotonic() - started:.1f} s")
