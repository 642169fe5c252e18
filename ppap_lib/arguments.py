"""Arguments of public functions and classes, checked against their annotations.

>>> @checked
... def spread(steps: int, eta: float = 0.0, form: Literal["score", "mean"] = "score") -> tuple:
...     return steps, eta
>>> import numpy as np
>>> spread(np.int64(25), 1)
(25, 1.0)
>>> spread("25")
Traceback (most recent call last):
ppap_lib.errors.InputError: steps must be a whole number, not '25'
>>> spread(25, eta=float("nan"))
Traceback (most recent call last):
ppap_lib.errors.InputError: eta must be a number, not nan
"""

import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ppap_lib.errors import InputError

_Checked = TypeVar("_Checked", bound=Callable)

_WORDS: Mapping[Any, str] = {
    bool: "a bool",
    int: "a whole number",
    float: "a number",
    str: "a str",
    Path: "a path",
    types.NoneType: "None",
    Callable: "a function",
    Mapping: "a mapping",
}


def checked(public: _Checked) -> _Checked:
    """Decorate a function, or a class, so that it refuses arguments of another type.

    Numbers of numpy and tensors of one number become Python's, and lists tuples, where those are
    annotated; nothing else is converted. A float is any number but NaN. Of a protocol the methods
    are asked for; of a sequence every element. An argument that is missing or unknown remains
    Python's `TypeError`.

    Parameters
    ----------
    public
        A function, or a class, whose `__init__` is checked.

    Returns
    -------
    callable
        What it was given, which raises `InputError` before it computes anything.
    """
    if inspect.isclass(public):
        public.__init__ = checked(public.__init__)
        return public
    signature = inspect.signature(public)

    @functools.wraps(public)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return public(*args, **kwargs)  # which says so in Python's own words
        hints = _hints(public)
        for name, value in bound.arguments.items():
            if (hint := hints.get(name, Any)) is not Any:
                bound.arguments[name] = _required(name, value, hint)
        return public(*bound.args, **bound.kwargs)

    return call


@functools.cache  # when first called: annotations may name what is defined further down
def _hints(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _required(name: str, value: Any, hint: Any) -> Any:
    """The value as its annotation has it, or the error that says what was expected."""
    try:
        return _fitted(value, hint)
    except InputError:
        raise InputError(f"{name} must be {_words(hint)}, not {shown(value)}") from None


def _fitted(value: Any, hint: Any) -> Any:
    """The value as the type has it, or `InputError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return _first_fitted(value, args)
    if hint in _NUMBERS:
        return _NUMBERS[hint](value)
    kind = origin or hint
    if kind is Literal:
        fits = any(value is choice or _equal(value, choice) for choice in args)
    elif kind is Callable:
        fits = callable(value)
    elif kind is tuple or kind in (Sequence, Iterable):
        return _fitted_elements(value, kind, args)
    elif getattr(kind, "_is_protocol", False):
        methods = (name for name in vars(kind) if callable(getattr(kind, name)))
        fits = not inspect.isclass(value) and all(hasattr(value, name) for name in methods)
    elif kind is Path:
        fits = isinstance(value, str | Path)
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise InputError
    return value


def _first_fitted(value: Any, options: Sequence[Any]) -> Any:
    for option in options:
        try:
            return _fitted(value, option)
        except InputError:
            continue
    raise InputError


def _equal(value: Any, choice: Any) -> bool:
    # By type too, as True == 1; and a tensor is equal in its own way.
    return type(value) is type(choice) and value == choice


def _fitted_elements(value: Any, kind: Any, args: Sequence[Any]) -> Any:
    """A sequence whose elements fit; what can be read but once is left for its reader to check."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputError
    if not isinstance(value, Sized):
        if kind is Iterable:
            return value
        raise InputError
    if getattr(value, "ndim", 1) == 0:  # an array of one number has a length in name only
        raise InputError
    elements = value.tolist() if hasattr(value, "tolist") else value
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(elements):
            raise InputError
        return tuple(_fitted(one, hint) for one, hint in zip(elements, args, strict=True))
    fitted = [_fitted(one, args[0]) for one in elements] if args else elements
    return tuple(fitted) if kind is tuple else value


def _bool(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's has another name in old versions
        raise InputError
    return bool(value)


def _int(value: Any) -> int:
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) is not None and value.ndim:
            raise InputError
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError from None


def _float(value: Any) -> float:
    try:
        one = isinstance(value, Real) or getattr(value, "ndim", None) == 0
        if isinstance(value, bool) or not one or math.isnan(number := float(value)):
            raise InputError
        return number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InputError from None


_NUMBERS: Mapping[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float}


def _words(hint: Any) -> str:
    """A type as an error message spells it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(repr, args))
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a tuple of {len(args)} ({', '.join(map(_words, args))})"
    kind = origin or hint
    if kind is tuple or kind in (Sequence, Iterable):
        return f"a sequence, each element {_words(args[0])}" if args else "a sequence"
    return _WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def shown(value: Any, most: int = 60) -> str:
    """Return a `value` as an error message shows it: of a tensor the type and the shape, of any
    other the first `most` letters."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
