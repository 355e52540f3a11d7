"""The one exception that means: the user's input cannot be used."""


class UserError(Exception):
    """Unusable input: the message says what is wrong, where, and what to do, on one line.

    Commands print it on stderr without a traceback and exit with status 2.
    """
