"""What every error of this package is: `except PpapError` catches them all, and nothing else."""


class PpapError(Exception):
    """Something that this package refuses; the message says what was wrong, and what to do.

    Each module has its own, which is a `ValueError` too, or a `RuntimeError` where no argument is
    to blame.
    """
