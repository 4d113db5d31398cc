"""The eight drawn tasks of the demo."""
