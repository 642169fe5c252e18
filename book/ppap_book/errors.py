"""The error of the book's own code."""

from ppap_lib.errors import PpapError


class StudyError(PpapError, ValueError):
    """A study, ledger row, claim, measure or figure cannot be made from what was given."""
