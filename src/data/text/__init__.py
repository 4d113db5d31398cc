"""Text tasks: rows of tables, put into words by templates."""
