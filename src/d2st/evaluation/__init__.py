"""Measure accuracy, rejection of unknown actions, and cost."""
