"""Render an action benchmark: motion classes that no single frame identifies, and look classes that any does."""

from .classes import LOOKS, MOTIONS, Motion, split
from .write import RenderConfig, render_clip, write_benchmark, write_clip

__all__ = ["LOOKS", "MOTIONS", "Motion", "RenderConfig", "render_clip", "split", "write_benchmark", "write_clip"]
