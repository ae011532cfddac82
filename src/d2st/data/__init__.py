"""From video files to tensors and episodes."""
