"""Frozen image models: build them, find where they can be adapted, run adapters inside them."""
