"""Fine-tuning: the recipe, the loop, its state on disk and its log."""
