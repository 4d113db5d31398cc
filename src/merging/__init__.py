"""Merging methods: torch only, no disk, no model, no data; one method a file."""
