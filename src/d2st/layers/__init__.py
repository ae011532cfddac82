"""Layers in plain PyTorch: deformable attention, and frozen layers that keep less for the backward pass."""
