"""The one error a user is meant to read."""


class D2STError(ValueError):
    """Something the user gave cannot be used.

    The message is a whole sentence: what was given, what was expected, what to do next. The command line prints it
    without a traceback and exits with 2 (``--debug`` shows the traceback).
    """
