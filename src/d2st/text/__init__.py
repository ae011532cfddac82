"""Features of class names from CLIP's text encoder (extra ``mm``)."""

from .names import encode_names, encode_phases, visual_projection

__all__ = ["encode_names", "encode_phases", "visual_projection"]
