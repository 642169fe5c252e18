"""Records on disk: JSON objects that are checked when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppap_lib.errors import DataError, PpapError

_DIGEST = "digest"


def read_record(path: Path, what: str, error: type[PpapError] = DataError) -> dict[str, Any]:
    """Read the JSON object at `path`, and return its entries.

    Parameters
    ----------
    path : Path
        A file.
    what : str
        What an error says that the file should be.
    error : type
        What is raised where it is damaged, or another kind of file.
    """
    try:
        record = json.loads(path.read_text("utf8"))
    except (ValueError, RecursionError) as problem:  # of the text's encoding, too
        raise error(f"{path} is not {what}, or damaged: {problem}") from problem
    if not isinstance(record, dict):
        raise error(f"{path} is not {what}: it holds a JSON {type(record).__name__}")
    return record


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with the digest of its entries beside them."""
    return {**record, _DIGEST: _digest(record)}


def unsealed(record: Mapping[str, Any], path: Path, error: type[PpapError]) -> dict[str, Any]:
    """Return a record of `sealed` without its digest.

    Parameters
    ----------
    record : mapping
        What was read. One without a digest is older than digests, and returned as it is.
    path : Path
        Where it was read.
    error : type
        What is raised if the digest is not that of the entries.
    """
    entries = {name: value for name, value in record.items() if name != _DIGEST}
    if _DIGEST in record and record[_DIGEST] != _digest(entries):
        raise error(
            f"{path} is damaged or was edited: its entries are not those of its digest; restore "
            f"it, or remove it and make it again"
        )
    return entries


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
