"""Weight files: read without unpickling code, verified, and loaded strictly.

Every network of the project, ours or a published one, enters through `read` and `load`. A file
whose name ends in .xz is packed (`xz -d` unpacks it); its sha256 is that of what is inside.
"""

import hashlib
import json
import lzma
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ppap_lib.errors import WeightsError
from ppap_lib.files.atomic import write_bytes


def sha256(path: str | Path) -> str:
    """Return the hexadecimal sha256 of a file, of a packed one that of its content.

    Raises `WeightsError` if a packed file is damaged, `OSError` where `path` cannot be read.
    """
    path = Path(path)
    if _packed(path):
        return hashlib.sha256(_content(path)).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the hexadecimal sha256 of a state dict's names and bytes, in order."""
    digest = hashlib.sha256()
    for name, value in state.items():
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + plain.numpy().tobytes())
    return digest.hexdigest()


def _packed(path: Path) -> bool:
    return path.suffix == ".xz"


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if not _packed(path):
        return content
    try:
        return lzma.decompress(content)
    except (lzma.LZMAError, EOFError) as error:
        raise WeightsError(f"{path} is truncated or not packed by xz: {error}") from error


def read(
    path: str | Path, digest: str | None = None, entry: str | None = None
) -> dict[str, Tensor]:
    """Return the state dict of a safetensors file or of a torch file without code in it.

    Parameters
    ----------
    path : str or Path
        A file whose name ends in .safetensors, packed or not; any other is read by torch.
    digest : str, optional
        The expected sha256.
    entry : str, optional
        The key under which a torch file keeps its state dict, beside other things.

    Returns
    -------
    dict of str to Tensor
        On the CPU. Tensors that `save` stored in 8 bits are float32.

    Raises
    ------
    WeightsError
        If the file is missing, has another digest, is truncated, or holds anything but tensors by
        name.
    OSError
        If it may not be read.
    """
    path = Path(path)
    _require_file(path)
    safe = _packed(path) or path.suffix == ".safetensors"
    content = _content(path) if safe else None
    if digest is not None:
        own = sha256(path) if content is None else hashlib.sha256(content).hexdigest()
        if own != digest:
            raise WeightsError(
                f"{path} has sha256 {own}, expected {digest}: it is truncated, or another "
                f"file; delete it and fetch or make it again"
            )
    try:
        if content is not None:
            state = from_bytes(content)
            _check_seal(state, content, path)
            return _in_full(state)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state if entry is None else state[entry]
    except (PermissionError, WeightsError):
        raise
    except Exception as error:  # damaged bytes raise anything, from KeyError to UnicodeDecodeError
        raise WeightsError(f"{path} cannot be read as weights: {_reason(error)}") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(
            f"{path} holds {type(state).__name__}, expected a state dict of tensors by name"
        )
    return dict(state)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"no weight file at {path}")


def _reason(error: Exception) -> str:
    """Why a file is no weight file; torch's own words may advise to run what is in it."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return (
            "it is damaged, or holds Python objects, which would run as code. If you trust its "
            "source, convert it to safetensors with the program that wrote it"
        )
    return f"it is truncated or another file ({type(error).__name__}: {first_line(error)})"


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).partition("\n")[0]


def _check_seal(state: dict[str, Tensor], content: bytes, path: Path) -> None:
    """Raise `WeightsError` if the file holds the digest of other tensors than its own."""
    length = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if _SEAL in facts and facts[_SEAL] != state_sha256(dict(sorted(state.items()))):
        raise WeightsError(
            f"{path} is damaged: its tensors are not those of its digest; delete it and fetch or "
            f"make it again"
        )


_SEAL = "tensors sha256"
"""Names the digest of the tensors among the facts of a safetensors file."""

_UNREADABLE = (ValueError, TypeError, AttributeError, RecursionError, lzma.LZMAError, EOFError)

_LONGEST_HEADER = 100_000_000  # bytes that the format allows
# Numbers of two bytes, packed as such: a tenth less than without saying so.
_PACKING = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**23, "lc": 2, "lp": 1, "pb": 1}]

_SHORT = 4  # numbers in float16 take no more bytes than in 8 bits with their scale
_SCALE = "::scale"  # names the scales of a tensor's rows; torch's own keys have no colons


def _in_8_bits(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Integers and a float32 scale per row where that is shorter than float16, the rest so."""
    packed = {}
    for key, value in state.items():
        in_a_row = math.prod(value.shape[1:])
        if value.ndim < 2 or in_a_row <= _SHORT or not value.is_floating_point():
            packed[key] = _cast(key, value, torch.float16)
            continue
        rows = value.float().flatten(1)
        if not rows.isfinite().all():
            raise WeightsError(f"{key} is not finite in float32: 8 bits cannot hold it")
        scale = rows.abs().amax(1) / 127
        steps = rows / torch.where(scale > 0, scale, 1)[:, None]
        # Clamped, since a scale may be subnormal, and a few times smaller than it should be.
        steps = steps.round().clamp(-127, 127).to(torch.int8)
        packed |= {key: steps.view_as(value), key + _SCALE: scale}
    return packed


def _in_full(state: dict[str, Tensor]) -> dict[str, Tensor]:
    scales = {key: state.pop(key) for key in list(state) if key.endswith(_SCALE)}
    for name, scale in scales.items():
        value = state[name.removesuffix(_SCALE)].float()
        state[name.removesuffix(_SCALE)] = (value.flatten(1) * scale[:, None]).view_as(value)
    return state


def _cast(key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not value.is_floating_point():
        return value
    cast = value.to(dtype)
    if bool((value.isfinite() & ~cast.isfinite()).any()):
        raise WeightsError(
            f"{key} reaches {value.abs().max():.3g}, beyond the range of {dtype}: save it wider"
        )
    return cast


def metadata(path: str | Path) -> dict[str, str]:
    """Return the facts that a safetensors file, packed or not, records beside its tensors.

    Raises `WeightsError` if there is no file at `path`, or another kind of file.
    """
    path = Path(path)
    _require_file(path)
    try:
        opened = lzma.open if _packed(path) else open
        with opened(path, "rb") as file:  # the format: a header's length, and the header as JSON
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        facts = dict(header.get("__metadata__", {}))
        if not all(isinstance(fact, str) for fact in facts.values()):
            raise TypeError("its metadata are not text")
    except _UNREADABLE as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    return {name: fact for name, fact in facts.items() if name != _SEAL}


def save(
    state: Mapping[str, Tensor],
    path: str | Path,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    seal: bool = False,
) -> None:
    """Write a state dict as safetensors, atomically.

    Parameters
    ----------
    state : mapping of str to Tensor
        The tensors by name.
    path : str or Path
        The file. One that ends in .xz is packed: nothing is lost, and an eighth less is stored.
    dtype : torch.dtype, optional
        What floating tensors are cast to. torch.int8 keeps every row (first axis) of more than 4
        numbers of a matrix or kernel as integers and their scale, the row's largest magnitude /
        127, and all else in float16: half of float16's bytes, with errors of at most half a scale.
    metadata : mapping of str to str, optional
        Facts to record beside the tensors.
    seal : bool
        Whether the file holds its tensors' digest, which `read` checks: for files whose sha256
        nothing else records.

    Raises
    ------
    WeightsError
        If a tensor is out of the range of `dtype`.
    OSError
        If the file cannot be written.
    """
    if dtype is torch.int8:
        state, dtype = _in_8_bits(state), None
    cast = {key: _cast(key, value, dtype).cpu().contiguous() for key, value in state.items()}
    facts = dict(metadata or {})
    if seal:
        facts[_SEAL] = state_sha256(dict(sorted(cast.items())))
    content = to_bytes(cast, facts or None)
    if _packed(Path(path)):
        content = lzma.compress(content, filters=_PACKING)
    write_bytes(path, content)


def _listed(keys) -> str:
    keys = sorted(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def load(network: nn.Module, state: Mapping[str, Tensor], name: str = "state dict") -> nn.Module:
    """Load a state dict strictly into a network, and return the network.

    Parameters
    ----------
    network : nn.Module
        The network; tensors are cast to its dtypes. After an error it is as it was.
    state : mapping of str to Tensor
        The tensors by the network's own names.
    name : str
        What an error calls the state.

    Raises
    ------
    WeightsError
        If the state does not fit; it names the missing, the unexpected and the misshapen keys.
    """
    own = network.state_dict()
    problems = []
    if missing := own.keys() - state.keys():
        problems.append(f"{len(missing)} missing: {_listed(missing)}")
    if unexpected := state.keys() - own.keys():
        problems.append(f"{len(unexpected)} unexpected: {_listed(unexpected)}")
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} misshapen: {_listed(misshapen)}")
    if problems:
        raise WeightsError(f"{name} does not fit {type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict(state)
    return network
