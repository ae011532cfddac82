"""Few-shot action recognition by adapter tuning."""

__version__ = "0.1.0"
