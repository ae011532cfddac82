"""Train adapters, heads and classifiers, and resume exactly; the training loop is ``trainer.Trainer.fit``."""
