"""From video files to tensors and episodes."""

from . import benchmarks as benchmarks
