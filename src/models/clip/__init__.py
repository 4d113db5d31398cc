"""CLIP image towers of open_clip with zero-shot heads."""

from src.models.clip.model import Clip as Clip
