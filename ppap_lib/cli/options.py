"""Options made of the fields of parameter dataclasses, and messages in place of tracebacks."""

import argparse
import errno
import os
import signal
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ppap_lib.errors import PpapError
from ppap_lib.parameters import HELP, Parameters, suggestion

Kind = TypeVar("Kind", bound=Parameters)

_UNWRITABLE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    + (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)  # a file where a folder should be, or the reverse
)


class CommandLine(argparse.ArgumentParser):
    """A command line that refuses in one line, and suggests what was meant."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """End with one line, and the status 2."""
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left: here, where the options that were meant are known."""
        given, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left[0])}")
        return given, left

    def _meant(self, word: str) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings]
        if word.startswith("-"):
            return f": {suggestion(word.partition('=')[0], [f for f in flags if f[:2] == '--'])}"
        switches = [f for f in flags if f"--no-{f[2:]}" in flags]
        if word.lower() in ("true", "false", "yes", "no") and switches:
            return f": {', '.join(switches)} take no value, and have an opposite, --no-..."
        return ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = suggestion(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}: {hint}")


@contextmanager
def ends_in_a_line() -> Iterator[None]:
    """End what the block does without a traceback, where it is interrupted or nobody reads on.

    Raises `SystemExit` with the status that a shell gives of ctrl-C, of which one line says, or of
    a closed pipe (`| head -1`), of which nothing does. It decorates functions as well.
    """
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # here, not as the interpreter ends
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in filter(None, (sys.stdout, sys.stderr)):  # what they still hold goes there
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(128 + 13) from None  # SIGPIPE's, which Windows lacks


def add_options(
    parser: argparse.ArgumentParser,
    kind: type,
    *,
    positional: Collection[str] = (),
    without: Collection[str] = (),
    names: Mapping[str, str] = types.MappingProxyType({}),
    default: str | None = None,
) -> None:
    """Add an option for every field of a dataclass, as a group of its own.

    A field `first_seed: int` becomes `--first-seed`; a bool has a `--no-` beside it, a `Literal`
    its choices, a tuple takes several values. A field without a default is required. What is not
    given is no attribute of the parsed namespace, so that `given_of` leaves it to the dataclass.
    Values are read as shells and scripts give them: 1e6 is a whole number, ~ the home folder, and
    None stands for nothing where a field may hold that.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Where the options are added.
    kind : type
        A dataclass, whose fields may say `param(..., help="A sentence.")`.
    positional, without : collection of str
        Fields that are given by their place, and fields that are no options.
    names : mapping of str to str
        Names of options that are not their fields'.
    default : str, optional
        What the help says of every default, such as "the preset's".

    Raises
    ------
    TypeError
        If a field has a type that no option can have.
    """
    group = parser.add_argument_group(kind.__doc__.splitlines()[0].rstrip("."))
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name in without:
            continue
        required = field.default is MISSING
        how = _reading(hints[field.name], field.name)
        how |= {"help": _help(field, default), "default": argparse.SUPPRESS}
        if field.name in positional:
            group.add_argument(field.name, **how | ({} if required else {"nargs": "?"}))
            continue
        flag = "--" + names.get(field.name, field.name).replace("_", "-")
        if "type" in how and "choices" not in how:
            how["metavar"] = flag[2:].replace("-", "_").upper()
        group.add_argument(flag, dest=field.name, required=required, **how)


def _help(field: Field, default: str | None) -> str:
    """The field's sentence, and its default where there is one."""
    value = field.default
    if isinstance(value, bool):
        value = "yes" if value else "no"
    sentences = [field.metadata.get(HELP, "")]
    if value is not MISSING and (default or value not in (None, ())):
        sentences.append(f"Default: {default or value}.")
    return " ".join(sentences).strip().replace("%", "%%")


def _reading(hint: Any, name: str) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (arg for arg in args if arg is not types.NoneType)
        how = _reading(hint, name)
        return how if "choices" in how or "nargs" in how else {"type": _or_none(how["type"])}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        return {"choices": args, "type": type(args[0])}
    if origin is tuple:
        several = args[1:] == (Ellipsis,)
        return {**_reading(args[0], name), "nargs": "+" if several else len(args)}
    if hint in (int, float, str, Path):
        return {"type": {int: _whole_number, Path: _path}.get(hint, hint)}
    raise TypeError(f"{name}: an option cannot have the type {hint!r}")


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or_none(text: str) -> Any:
        return None if text == "None" else read(text)

    read_or_none.__name__ = read.__name__  # as argparse calls it: "invalid float value"
    return read_or_none


def _whole_number(text: str) -> int:
    with suppress(ValueError):
        return int(text)
    with suppress(InvalidOperation):
        number = Decimal(text)  # 1e6; of 1e999999999 no int is made
        if number.is_finite() and number.adjusted() < 19 and number % 1 == 0:
            return int(number)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number")


def _path(text: str) -> Path:
    if not text.strip():  # which would be the present folder
        raise argparse.ArgumentTypeError("the path is empty: write . for the present folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def given_of(kind: type, given: argparse.Namespace) -> dict[str, Any]:
    """Return the options on the command line that are fields of the dataclass `kind`, by name."""
    return {f.name: getattr(given, f.name) for f in fields(kind) if hasattr(given, f.name)}


def parameters_of(kind: type[Kind], given: argparse.Namespace) -> Kind:
    """Return the parameters `kind` with what was `given` on the command line, which it checks."""
    return kind.of(given_of(kind, given))


@ends_in_a_line()
def run_command(
    parser: argparse.ArgumentParser,
    act: Callable[[argparse.Namespace], str | int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Carry out a command line, and return the exit status.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Reads the arguments.
    act : callable
        Does what they say, and returns words, which are printed, or a status of its own.
    arguments : sequence of str, optional
        In place of the process's own.

    Returns
    -------
    int
        1 after a `PpapError`, of which only the message is printed: it says what to do; and where
        a file cannot be written. Any other exception is a fault of the program, and is raised.
    """
    given = parser.parse_args(arguments)
    try:
        result = act(given)
    except Exception as error:
        if isinstance(error, PpapError):
            words = str(error)
        elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
            words = _unwritable(error, given)
        else:
            raise
        print(f"error: {words}", file=sys.stderr)
        return 1
    if isinstance(result, str):
        print(result)
    return result if isinstance(result, int) else 0


def _unwritable(error: OSError, given: argparse.Namespace) -> str:
    words = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    folder = getattr(given, "folder", None)
    named = folder and isinstance(error.filename, str | Path)
    inside = named and Path(error.filename).is_relative_to(folder)
    return f"{words}: give another --folder" if inside else words
