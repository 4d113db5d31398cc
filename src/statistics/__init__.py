"""Statistics of fine-tuned models on their tasks' data (Fisher information, Gram matrices): collected, kept, read."""
