"""Adapter folders of peft as the dense models they stand for: LoRA (Hu et al., 2022) and DoRA (Liu et al., 2024).

What an adapter stands for is what peft computes with it in training, and keeps in `merge_and_unload`.
"""

from src.checkpoints.peft.config import CONFIG as CONFIG
from src.checkpoints.peft.dense import is_adapter as is_adapter
from src.checkpoints.peft.dense import open_adapter as open_adapter
from src.checkpoints.peft.dense import open_over as open_over
from src.checkpoints.peft.reading import COUNTED_TWICE as COUNTED_TWICE
