"""The image classification datasets of the papers, and a user's own."""
