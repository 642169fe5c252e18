"""Checked parameters of a run: names, types and ranges are wrong before anything is computed.

Parameters are a frozen dataclass derived from `Parameters`; a value of a wrong type or out of
its range never makes an instance.

>>> @dataclasses.dataclass(frozen=True)
... class Sampling(Parameters):
...     steps: int = param(25, low=1, high=1000)
...     form: Literal["score", "mean"] = "score"
...     betas: tuple[float, float] | None = None
...     save: bool = param(False, recorded=False)
>>> Sampling(betas=[0, 0.02]).recorded()
{'steps': 25, 'form': 'score', 'betas': (0.0, 0.02)}
>>> Sampling.of({"step": 50})
Traceback (most recent call last):
ppap_lib.errors.InputError: unknown parameter 'step': did you mean 'steps'?
>>> Sampling(steps=0)
Traceback (most recent call last):
ppap_lib.errors.InputError: steps must be in [1, 1000], not 0
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import operator
import types
import typing
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Self, Union

from ppap_lib.errors import InputError

_RANGE = "ppap_range"
_RECORDED = "ppap_recorded"
HELP = "ppap_help"
"""The key of a field's metadata under which `param` keeps what an option says of itself."""


def param(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    recorded: bool = True,
    help: str = "",
) -> Any:
    """Make a dataclass field with a range and a sentence of help.

    Parameters
    ----------
    default
        Its value where none is given; without one it must be.
    low, high
        The range, both ends included: of the number, or of every element of a tuple.
    recorded
        Whether the parameter changes the result. Others, such as `save` or a device, are left out
        of `Parameters.recorded`, so of the name of the result's file.
    help
        A sentence about the option that the command line shows.
    """
    metadata = {_RANGE: (low, high), _RECORDED: recorded, HELP: help}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The base of parameter sets, which checks every field when an instance is made.

    Field types are bool, int, float, str, Path, None, `Literal`, tuples and unions of these. An
    int is accepted for a float, a str for a Path, a list (what YAML and JSON have) for a tuple,
    and numpy's numbers for Python's; nothing else is converted. A subclass with a rule across
    fields extends `__post_init__`, calling this one first.

    Raises
    ------
    InputError
        For a value of another type, or out of its range.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            value = _typed(field.name, getattr(self, field.name), hints[field.name])
            _in_range(field.name, value, *field.metadata.get(_RANGE, (None, None)))
            object.__setattr__(self, field.name, value)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make an instance of `values` by name; `InputError` for unknown and missing names."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                hint = suggestion(str(name), list(fields))
                raise InputError(f"unknown parameter {name!r}: {hint}")
        for name, field in fields.items():
            if name not in values and field.default is dataclasses.MISSING:
                raise InputError(f"parameter {name!r} is missing and has no default")
        return cls(**values)

    def recorded(self) -> dict[str, Any]:
        """Return the parameters that decide the result, by name, as ledger rows record them."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get(_RECORDED, True)
        }


def whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return a whole number, such as a count, a rank or a seed, as Python's int.

    Parameters
    ----------
    name
        What the error calls it.
    value
        An integer of Python, numpy or torch.
    low, high
        Its range, both ends included.

    Raises
    ------
    InputError
        For anything else, 2.0 and True among it, or a number out of the range.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # of an array or a tensor of several
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    _in_range(name, number, low, high)
    return number


def real(name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """Return a finite number, such as a scale or a rate, as Python's float.

    Parameters
    ----------
    name
        What the error calls it.
    value
        A number of Python or numpy.
    low, high
        Its range, both ends included.

    Raises
    ------
    InputError
        For anything else, NaN and True among it, or a number out of the range.
    """
    try:
        number = float(_plain(value)) if isinstance(value, Real) else math.nan
    except OverflowError:  # of an int beyond all floats
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"{name} must be a finite number, not {value!r}")
    _in_range(name, number, low, high)
    return number


@functools.cache  # resolving them takes longer than all else that an instance costs
def _hints(kind: type) -> dict[str, Any]:
    """The types of the fields of a class."""
    return typing.get_type_hints(kind)


def suggestion(name: str, known: Collection[str], n: int = 1) -> str:
    """Return a hint about a `name` that is not `known`: the `n` most alike, or else all."""
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.5)
    if not close:
        return f"there are {', '.join(known)}"
    return f"did you mean {' or '.join(map(repr, close))}?"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as its type has it (int to float, str to path, list to tuple), or `InputError`."""
    value = _plain(value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _typed(name, value, option)
            except InputError:
                continue
    elif origin is Literal:
        # By type too: True == 1, and a run filed under True is not a run filed under 1.
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            kinds = (args[0],) * len(value) if args[1:] == (Ellipsis,) else args
            if len(kinds) == len(value):
                return tuple(
                    _typed(f"{name}[{i}]", v, kind)
                    for i, (v, kind) in enumerate(zip(value, kinds, strict=True))
                )
    elif hint is float:
        with contextlib.suppress(OverflowError):  # of an int beyond all floats
            if type(value) in (int, float) and math.isfinite(value):
                return float(value)
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif hint in (bool, int, str, types.NoneType):
        if type(value) is hint:
            return value
    else:
        raise TypeError(f"{name}: a parameter cannot have the type {_spelt(hint)}")
    raise InputError(f"{name} must be {_spelt(hint)}, not {value!r}{_close(value, hint)}")


def _plain(value: Any) -> Any:
    """A number of numpy as Python's own, and all else as it is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _close(value: Any, hint: Any) -> str:
    """A 'did you mean' for a misspelt choice."""
    choices = [c for c in typing.get_args(hint) if isinstance(c, str)]
    close = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f": did you mean {close[0]!r}?" if close else ""


def _spelt(hint: Any) -> str:
    """A type as an error message spells it: "a finite float", "one of 'a', 'b'"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_spelt, args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(repr, args))
    if origin is tuple and args[1:] == (Ellipsis,):
        return f"a tuple, each element {_spelt(args[0])}"
    if origin is tuple:
        return f"a tuple of {len(args)} ({', '.join(map(_spelt, args))})"
    known = {
        bool: "a bool (true or false, unquoted)",
        int: "an int",
        float: "a finite float",
        str: "a str",
        Path: "a path",
        types.NoneType: "None",
    }
    return known.get(hint, repr(hint))


def _in_range(name: str, value: Any, low: float | None, high: float | None) -> None:
    """Refuse a number, or a tuple with an element, that is out of the range."""
    if isinstance(value, tuple):
        for i, element in enumerate(value):
            _in_range(f"{name}[{i}]", element, low, high)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low_end = -math.inf if low is None else low
        high_end = math.inf if high is None else high
        if not low_end <= value <= high_end:
            expected = f"in [{low}, {high}]"
            if high is None:
                expected = f"at least {low}"
            elif low is None:
                expected = f"at most {high}"
            raise InputError(f"{name} must be {expected}, not {value}")
