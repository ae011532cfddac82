"""Encoders, heads and transforms from the options that a command was given."""
