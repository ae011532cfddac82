"""Train adapters, heads and classifiers, and resume exactly."""
