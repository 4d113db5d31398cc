"""Adapter folders of peft as the dense models they stand for: LoRA (Hu et al., 2022) and DoRA (Liu et al., 2024).

What an adapter stands for is what peft computes with it in training, and keeps in `merge_and_unload`.
"""
