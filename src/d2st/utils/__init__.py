"""Files, processes, settings and terminals: what every other room uses and what knows no model."""
