"""The command line: one command a file, and the parser they share."""
