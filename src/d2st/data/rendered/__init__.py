"""A rendered action benchmark: motion classes that no single frame tells apart."""

from .classes import MOTIONS, Motion, split
from .write import RenderConfig, render_clip, write_benchmark, write_clip

__all__ = ["MOTIONS", "Motion", "RenderConfig", "render_clip", "split", "write_benchmark", "write_clip"]
