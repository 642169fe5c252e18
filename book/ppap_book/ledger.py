"""The ledger of finished runs: one small immutable JSON file each, read back as a table.

A study has a folder, and a file in it is named by a digest of the parameters that decide the
result, so that one run always has one place: `guidance/1f0c9a2b77e4.json`. Beside parameters and
results it says what made it: commit, seconds, device, versions.

A result is never replaced. Recording the same parameters again leaves the first file as it is
if the results agree, and raises `StudyError` naming the differences if they do not: either the
code changed (delete the file to accept the new result; git keeps the old one) or the run does not
depend on its seeds alone.

Results agree, as `compared` has it, if zeros and ones, counts, strings and the lengths of lists
are equal, and real numbers agree to `AGREEMENT`, or to `ZERO` where they are small. Kernels of
another processor round otherwise, and guidance enlarges what they round: 64 images drawn and read
by SSE4.1 instead of AVX-512 had the same bits, and distances that differed by 7e-5 to 6e-4. What
one image contributes moves further than their mean, there by up to 9e-3 of the largest: in a list
with an entry for each of the `n` images, entries agree to `LISTED` of that.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple

import torch

from ppap_book.errors import StudyError
from ppap_lib.device import device_title
from ppap_lib.files.atomic import write_text
from ppap_lib.files.provenance import commit, versions

Row = dict[str, Any]

AGREEMENT = 1e-3
"""Relative difference below which two real numbers are the same result."""

ZERO = 1e-5
"""Absolute difference below which they are, too. KID, the difference of two means of about 1, may
be as small: it is 2e-4 between 200 real images and 200 others, and below zero as often. Features
that another processor rounds move it by 1e-8, images by 1e-6 to 2e-5."""

LISTED = 3e-2
"""Difference below which two entries are, in lists by image, as a share of the largest."""

DIGITS = 9
"""Significant digits of the numbers in results: more than any two machines agree on."""

_BOOK = Path(__file__).resolve().parents[1]

_ABSENT = object()  # what a result does not hold
_MANY = 16  # entries make a list long, which a file keeps under one of these keys:
_BITS = "bits"  # zeros and ones, as their count and one hexadecimal number
# decimal numbers, as whole multiples of such a power of ten, or of BASE+STEP of it, BASE added
_UNITS = re.compile(r"(?:(-?\d+)\+(\d+))?(e-\d{1,3})")


def folder() -> Path:
    """Return the folder of all rows: `$PPAP_RESULTS`, else `book/results` of the checkout."""
    results = os.environ.get("PPAP_RESULTS")
    return Path(results).expanduser() if results else _BOOK / "results"


def studies(where: Path | None = None) -> list[str]:
    """Return the names of the studies that have rows, in order."""
    return sorted({path.parent.name for path in (where or folder()).glob("*/*.json")})


def digest(params: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits of the parameters, in any order, lists like tuples."""
    text = json.dumps(_plain("params", dict(params)), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record(
    study: str,
    params: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    seconds: float,
    device: torch.device | str = "cpu",
    into: Path | None = None,
) -> Path:
    """File a finished run and return the path; the file appears whole or not at all.

    Parameters
    ----------
    study : str
        The study's name: a-z, 0-9 and _.
    params : Mapping[str, Any]
        What decides the result, and so the name of the file.
    results : Mapping[str, Any]
        Finite numbers, strings, bools, None, and lists and dicts of them; tensors and arrays are
        converted.
    seconds : float
        What the run took.
    device : torch.device or str
        Where it ran.
    into : Path, optional
        The folder of all rows, if another than `folder()`.

    Raises
    ------
    StudyError
        If results cannot be recorded, or differ from those already there, or are for the book's
        ledger and by code that was not committed.
    """
    if into is None:
        require_committed_code()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", study):
        raise StudyError(f"a study is named with a-z, 0-9 and _, not {study!r}")
    row = {
        "study": study,
        "params": _plain("params", dict(params)),
        "results": as_recorded(results),
        "seconds": round(float(seconds), 1),
        "device": device_title(device),
        "commit": commit(),
        "versions": versions(),
    }
    path = _path(study, params, into)
    try:
        write_text(path, _text(row) + "\n", new=True)
    except FileExistsError as error:
        old, n = _read(path)["results"], row["params"].get("n")
        pairs = compared(old, row["results"], n)
        if differences := [str(pair) for pair in pairs if not pair.agrees]:
            raise StudyError(
                f"{_named(path)} already holds another result of these parameters "
                f"({'; '.join(differences[:4])}): delete it to accept the new one"
            ) from error
    return path


def as_recorded(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as a row holds them: plain, and of `DIGITS` digits.

    Raises `StudyError` for what no row can hold, such as numbers that are not finite.
    """
    return _rounded(_plain("results", dict(results)))


def require_committed_code() -> None:
    """Raise `StudyError` if rows would enter the book's own ledger by code that no commit holds.

    Without git nothing is known of the code, and all may be recorded.
    """
    made_by = commit() or ""
    if made_by.endswith("+") and "PPAP_RESULTS" not in os.environ:
        raise StudyError(
            f"the code differs from commit {made_by[:8]}, and nobody could run it again: a row of "
            f"the book's ledger is made by a commit. Commit what changed in ppap_lib and "
            f"book/ppap_book first, or set PPAP_RESULTS to a folder of your own"
        )


def find(study: str, params: Mapping[str, Any], where: Path | None = None) -> Row | None:
    """Return the row of exactly these parameters, or None if the ledger lacks that run."""
    path = _path(study, params, where)
    return _read(path) if path.exists() else None


def rows(study: str, where: Path | None = None) -> list[Row]:
    """Return all rows of a study, in the order of their file names.

    A file is parsed once a process, until it changes: rows are shared, and not to be changed.
    """
    place = (where or folder()) / study
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:  # ten times as fast as a glob, with thousands of rows
        files = sorted((e.path, e.stat()) for e in entries if e.name.endswith(".json"))
    return [_parsed(path, *_state(stat)) for path, stat in files]


def named(name: str, where: Path | None = None) -> Row:
    """Return the row that `name` means: "study/digest", or as much of it as is unique, or a path.

    Raises `StudyError` if there is no such row, or more than one.
    """
    if Path(name).is_file():
        return _read(Path(name).resolve())
    study, _, start = name.removesuffix(".json").partition("/")
    known = studies(where)
    if study not in known:
        raise StudyError(
            f"no rows of a study {study!r}: a row is named as study/digest, of {', '.join(known)}"
        )
    paths = sorted((where or folder()).glob(f"{study}/*.json"))
    meant = [path for path in paths if path.name.startswith(start)]
    if len(meant) != 1:
        among = ", ".join(path.stem for path in (meant or paths)[:4])
        count = f"{len(meant)} rows begin" if meant else "no row begins"
        raise StudyError(f"{count} with {name!r}: give more or other digits, such as {among}")
    return _read(meant[0])


def table(entries: Iterable[Row]) -> list[Row]:
    """Return rows flattened to one dict each: parameters and results side by side, and seconds.

    Raises `StudyError` where a result is named like a parameter.
    """
    flat = []
    for row in entries:
        if shared := row["params"].keys() & row["results"].keys():
            raise StudyError(
                f"{row['study']}: {', '.join(sorted(shared))} is both parameter and result"
            )
        flat.append({**row["params"], **row["results"], "seconds": row["seconds"]})
    return flat


class Pair(NamedTuple):
    """What two results hold in one place, such as "trend.inside.0.mean".

    Real numbers agree that are as near to each other as `near`.
    """

    name: str
    old: Any
    new: Any
    near: float

    @property
    def agrees(self) -> bool:
        """Whether both are one result."""
        if self.is_real:
            return math.isclose(self.old, self.new, rel_tol=AGREEMENT, abs_tol=self.near)
        return self.old == self.new and type(self.old) is type(self.new)

    @property
    def is_real(self) -> bool:
        """Whether these are two numbers of which one is real, so that it may differ by rounding."""
        kinds = {type(self.old), type(self.new)}
        return float in kinds and kinds <= {int, float}

    def __str__(self) -> str:
        if _ABSENT in (self.old, self.new):
            return f"{self.name} only in the {'new' if self.old is _ABSENT else 'old'} one"
        return f"{self.name} was {self.old!r}, is {self.new!r}"


def compared(
    old: Any, new: Any, n: int | None = None, name: str = "", near: float = ZERO
) -> Iterator[Pair]:
    """Yield every value of two results of `n` images, side by side, in the order of their names.

    Lists of different lengths are one value each. Real numbers agree that are as near as `near`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            pair = old.get(key, _ABSENT), new.get(key, _ABSENT)
            yield from compared(*pair, n, f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        sizes = [abs(entry) for entry in old if type(entry) is float] if len(old) == n else []
        near = max([ZERO, *(LISTED * size for size in sizes)])
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from compared(*pair, n, f"{name}.{i}", near)
    else:
        yield Pair(name, old, new, near)


def _path(study: str, params: Mapping[str, Any], where: Path | None) -> Path:
    return (where or folder()) / study / f"{digest(params)}.json"


def _named(path: Path) -> str:
    """A row's file as messages name it: with its study."""
    return f"{path.parent.name}/{path.name}"


def _read(path: Path) -> Row:
    """One ledger file, checked to be what its name says."""
    return _parsed(str(path), *_state(path.stat()))


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    """What of a file is another once it was written again."""
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@cache
def _parsed(file: str, *state: int) -> Row:
    """The row in a file, read again only where the file's state is another."""
    path = Path(file)
    try:
        row = json.loads(path.read_text(encoding="utf-8"), object_hook=_unpacked)
        own = f"{row['study']}/{digest(row['params'])}.json"
        row["results"], row["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{_named(path)} is not a ledger file ({type(error).__name__}: {error})"
        ) from error
    if own != _named(path):
        raise StudyError(f"{_named(path)} was edited or renamed: its parameters belong to {own}")
    return row


def _text(value: Any, indent: str = "") -> str:
    """`value` as JSON: a line for each key in order, a list of any length on its key's line.

    Hundreds of images' numbers one below the other are twice the bytes and no easier to read. A
    long list of zeros and ones, or of decimal numbers, is shorter still as `_packed` has it.
    """
    if isinstance(value, list) and len(value) >= _MANY:
        value = _packed(value)
    if not isinstance(value, dict) or not value or _is_packed(value):
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    inner = indent + " "
    entries = (f"{inner}{json.dumps(key)}: {_text(value[key], inner)}" for key in sorted(value))
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _packed(values: list) -> Any:
    """A long list as a file keeps it: itself, unless it is all zeros and ones, or decimals."""
    if all(type(value) is int and value in (0, 1) for value in values):
        return {_BITS: f"{len(values)}:{int(''.join(map(str, values)), 2):x}"}
    if not all(type(value) is float for value in values):
        return values
    exact = [Decimal(repr(value)) for value in values]
    places = max(0, *(-value.as_tuple().exponent for value in exact))
    whole = [int(value.scaleb(places)) for value in exact]
    forms = [values, {f"e-{places}": whole}]
    base = mode(whole)
    if (step := math.gcd(*(number - base for number in whole))) > 1:
        forms.append({f"{base}+{step}e-{places}": [(number - base) // step for number in whole]})
    return min(forms, key=lambda form: len(json.dumps(form, separators=(",", ":"))))


def _is_packed(entries: Mapping[str, Any]) -> bool:
    return len(entries) == 1 and any(k == _BITS or _UNITS.fullmatch(k) for k in entries)


def _unpacked(entries: dict[str, Any]) -> Any:
    """What `_packed` made of a list, a list again, number for number; others as they are."""
    if not _is_packed(entries):
        return entries
    ((key, packed),) = entries.items()
    if key != _BITS:
        base, step, unit = _UNITS.fullmatch(key).groups(default="")
        base, step, parts = int(base or 0), int(step or 1), 10 ** int(unit.removeprefix("e-"))
        # Python rounds a quotient of integers to the nearest float, as it reads decimal digits.
        return [(base + step * number) / parts for number in packed]
    count, number = packed.split(":")
    digits = f"{int(number, 16):0{count}b}".encode()
    bits = list(digits.translate(bytes.maketrans(b"01", b"\0\1")))
    if len(bits) != int(count):
        raise ValueError(f"{number} has {len(bits)} bits, not {count}")
    return bits


def _rounded(value: Any) -> Any:
    """Every number to `DIGITS` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


def _plain(name: str, value: Any) -> Any:
    """`value` as JSON holds it, or `StudyError` naming what cannot be recorded."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StudyError(f"{name} is {value}: only finite numbers are recorded")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise StudyError(f"{name} has the key {key!r}: keys are strings")
        if _is_packed(value):
            raise StudyError(f"{name} = {dict(value)} would be read back as a list: add a key")
        return {key: _plain(f"{name}.{key}", entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{i}]", entry) for i, entry in enumerate(value)]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(name, value.tolist())
    raise StudyError(f"{name} is a {type(value).__name__}, which JSON cannot hold")
