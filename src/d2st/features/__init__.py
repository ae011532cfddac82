"""Encode every clip once and keep its features."""
