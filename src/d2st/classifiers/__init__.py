"""Classifiers that people use: from a few examples (few_shot.py) and of fixed classes (video.py)."""
