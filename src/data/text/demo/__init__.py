"""The eight written tasks of the text demo."""
