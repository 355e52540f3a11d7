"""The one exception that means: the user's input cannot be used. And what every command refuses alike."""


class UserError(Exception):
    """Unusable input: the message says what is wrong, where, and what to do, on one line.

    Commands print it on stderr without a traceback and exit with status 2.
    """


def check_seed(seed: int) -> None:
    """Refuse a seed that not every random generator takes.

    Raises:
        UserError: it is negative, or 2**32 or more.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
