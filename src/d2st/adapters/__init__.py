"""Adapter systems: one file a system, its config and its module side by side."""
