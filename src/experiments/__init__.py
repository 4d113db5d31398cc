"""What is asked of models, and the table and record that answer it."""
