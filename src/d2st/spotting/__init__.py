"""Find actions in long videos."""
