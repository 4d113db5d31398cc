"""Adapter folders of peft as the dense models they stand for: LoRA (Hu et al., 2022) and DoRA (Liu et al., 2024).

An adapter stands for the model that peft trains with it, and that its `merge_and_unload` returns.
"""
