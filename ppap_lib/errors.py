"""The errors of this package: `except PpapError` catches them all, and nothing else.

A message says what was wrong, what was expected and what to do.
"""


class PpapError(Exception):
    """Base of everything that this package refuses."""


class InputError(PpapError, ValueError):
    """An argument has a wrong type, shape, range or name."""


class ScheduleError(PpapError, ValueError):
    """A noise schedule, level, grid or interval of timesteps cannot exist."""


class GuidanceError(PpapError, ValueError):
    """A guide, task, target, scale or form of guidance cannot be used."""


class WeightsError(PpapError, ValueError):
    """Weights or their card are unknown, missing, damaged, or do not fit the network."""


class DataError(PpapError, ValueError):
    """Data are missing, damaged, or not what was asked for.

    Parameters
    ----------
    message
        Words for the reader.
    missing
        Whether the data are not on this machine, so that a stand-in may be used.
    """

    def __init__(self, message: str, *, missing: bool = False):
        super().__init__(message)
        self.missing = missing


class TrainingError(PpapError, RuntimeError):
    """Training cannot start or go on."""
