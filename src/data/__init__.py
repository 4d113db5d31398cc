"""Examples by task and split; a task is a row in a table."""
