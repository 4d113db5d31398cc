"""Files from the Hugging Face Hub and Google Drive: resumed, verified, pinned."""
