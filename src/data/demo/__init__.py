"""The demo's eight drawn tasks."""
