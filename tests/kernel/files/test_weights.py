"""Weight files: only the right bytes, holding only tensors, that fit the network."""

import errno
import io
import lzma
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from ppap_lib.errors import WeightsError
from ppap_lib.files import weights


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return network().state_dict()


def as_torch(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["w.safetensors", "w.safetensors.xz", "w.pt"])
def test_a_file_returns_what_was_written(tmp_path, state, name):
    path = tmp_path / name
    if path.suffix == ".pt":
        path.write_bytes(as_torch(state))
    else:
        weights.save(state, path)
    read = weights.read(path, weights.sha256(path))
    assert read.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(read[key], value) and read[key].dtype == value.dtype


@pytest.mark.parametrize("name", ["w.safetensors", "w.safetensors.xz"])
def test_metadata_returns_beside_the_tensors(tmp_path, state, name):
    path = tmp_path / name
    weights.save(state, path, metadata={"plan": "a {json}"})
    assert weights.metadata(path) == {"plan": "a {json}"}
    assert weights.read(path).keys() == state.keys()
    weights.save(state, path)
    assert weights.metadata(path) == {}


@pytest.mark.parametrize("name", ["w.safetensors", "w.safetensors.xz"])
def test_others_may_read_a_file_as_the_umask_says(tmp_path, state, name):
    before = os.umask(0o022)
    try:
        weights.save(state, tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_what_may_not_be_read_or_written_is_the_system_s_error(tmp_path, state, monkeypatch):
    path = tmp_path / "w.safetensors"
    weights.save(state, path)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        weights.save(state, tmp_path / "folder.safetensors")

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    (tmp_path / "w.pt").touch()
    for name in ("w.safetensors", "w.pt"):
        with pytest.raises(PermissionError, match="Permission denied"):
            weights.read(tmp_path / name)


def test_a_packed_file_holds_the_very_same_file(tmp_path, state):
    plain, packed = tmp_path / "w.safetensors", tmp_path / "w.safetensors.xz"
    big = {"w": torch.randn(100, 1000)}
    for path in (plain, packed):
        weights.save(big, path, torch.float16, {"plan": "a"})
    assert lzma.decompress(packed.read_bytes()) == plain.read_bytes()
    assert weights.sha256(packed) == weights.sha256(plain)
    assert packed.stat().st_size < 0.95 * plain.stat().st_size
    weights.save(big, packed, torch.int8)
    assert (weights.read(packed)["w"] - big["w"]).abs().max() < 0.03


@pytest.mark.parametrize("read", [weights.read, weights.sha256])
def test_a_damaged_packed_file_is_refused(tmp_path, state, read):
    path = tmp_path / "w.safetensors.xz"
    weights.save(state, path)
    content = path.read_bytes()
    for damaged in (b"", content[:20], content[:-20], content[:-9] + b"12345678\n", b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="w.safetensors.xz (is truncated|cannot be read)"):
            read(path)


NULL = b"\x16" + bytes(7) + b'{"__metadata__": null}'


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02" + bytes(7) + b"[]", NULL])
def test_metadata_of_what_is_no_weight_file_is_refused(tmp_path, content):
    for name in ("w.safetensors", "w.safetensors.xz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} cannot be read as safetensors"):
            weights.metadata(tmp_path / name)


def test_loading_copies_every_tensor(state):
    target = network()
    assert weights.load(target, state) is target
    for key, value in target.state_dict().items():
        assert torch.equal(value, state[key])


# --- Files that are not the expected ones ---------------------------------------------------


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # the example of FIPS 180-2
    assert weights.sha256(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_tampered_file_is_refused_before_it_is_read(tmp_path, state):
    path = tmp_path / "w.safetensors"
    weights.save(state, path)
    digest, content = weights.sha256(path), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    weights.read(path)  # readable: only the digest can tell
    with pytest.raises(WeightsError, match=f"sha256 .*expected {digest}.*fetch or make it again"):
        weights.read(path, digest)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no weight file at .*absent.safetensors"):
        weights.read(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="no weight file"):
        weights.read(tmp_path)  # a folder


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, state, suffix, share):
    path = tmp_path / f"w{suffix}"
    weights.save(state, path)
    content = path.read_bytes() if suffix == ".safetensors" else as_torch(state)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=f"w{suffix} cannot be read as weights"):
        weights.read(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=100)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_arbitrary_bytes_never_raise_anything_else(scratch, content, suffix):
    path = scratch / f"noise{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as weights|expected a state dict"):
        weights.read(path)


class _Code:
    """An object whose unpickling would run code."""

    ran: list = []

    def __reduce__(self):
        return (_Code.ran.append, (True,))


@pytest.mark.parametrize(
    "pack", [as_torch, lambda content: pickle.dumps(content, 2)], ids=["torch", "pickle"]
)
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, pack):
    path = tmp_path / "w.pt"
    path.write_bytes(pack({"weight": _Code()}))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        weights.read(path)
    assert not _Code.ran


@pytest.mark.parametrize(
    "content", [{"weight": 1.0}, {"ema": {"weight": torch.zeros(1)}}, {0: torch.zeros(1)}, [1, 2]]
)
def test_anything_but_tensors_by_name_is_refused(tmp_path, content):
    path = tmp_path / "w.pt"
    path.write_bytes(as_torch(content))
    with pytest.raises(WeightsError, match="expected a state dict of tensors by name"):
        weights.read(path)


# --- States that do not fit ------------------------------------------------------------------


def test_every_kind_of_misfit_is_named_at_once(state):
    del state["0.bias"]
    state["2.weight"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(4, 5)
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError) as raised:
        weights.load(target, state, "card-1")
    message = str(raised.value)
    assert "card-1 does not fit Sequential" in message
    assert "1 missing: 0.bias" in message
    assert "1 unexpected: 2.weight" in message
    assert "1 misshapen: 0.weight (4, 5) instead of (4, 3)" in message
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key]), "a refused state must change nothing"


def test_a_long_list_of_keys_is_cut():
    with pytest.raises(WeightsError, match="20 unexpected: .* and 12 more"):
        weights.load(nn.Identity(), {f"k{i:02}": torch.zeros(1) for i in range(20)})


# --- Saving ----------------------------------------------------------------------------------


def test_casting_touches_floating_tensors_only(tmp_path, state):
    path = tmp_path / "w.safetensors"
    weights.save(state, path, torch.float16)
    stored = load_file(path)
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    for key, value in state.items():
        if value.is_floating_point():
            assert stored[key].dtype == torch.float16
            assert torch.equal(stored[key], value.half())
    loaded = weights.load(network(), stored)  # cast back to the network's dtype
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_a_cast_that_overflows_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="big reaches 7e.04, beyond the range of torch.float16"):
        weights.save({"big": torch.tensor([7e4])}, path, torch.float16)
    assert not path.exists()


def test_eight_bits_keep_every_row_to_half_a_step(tmp_path):
    path = tmp_path / "w.safetensors"
    rows = torch.randn(5, 3, 2, 2) * 10.0 ** torch.arange(5).view(-1, 1, 1, 1)
    rows[3] = 0
    state = {"kernel": rows, "bias": torch.tensor([0.1]), "count": torch.tensor([[7]])}
    weights.save(state, path, torch.int8)
    stored = load_file(path)
    assert stored["kernel"].dtype == torch.int8 and stored["bias"].dtype == torch.float16
    read = weights.read(path)
    assert read.keys() == state.keys() and read["kernel"].dtype == torch.float32
    step = rows.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((read["kernel"] - rows).abs() <= 0.5001 * step).all()
    assert torch.equal(read["bias"], state["bias"].half())
    assert torch.equal(read["count"], state["count"])
    weights.save(read, path, torch.int8)  # what has been rounded stays
    torch.testing.assert_close(weights.read(path)["kernel"], read["kernel"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [torch.nan, 1e39])
def test_eight_bits_refuse_what_is_not_finite_in_single_precision(tmp_path, value):
    path = tmp_path / "w.safetensors"
    broken = torch.full((1, 5), value, dtype=torch.float64)
    with pytest.raises(WeightsError, match="broken is not finite in float32"):
        weights.save({"broken": broken}, path, torch.int8)
    assert not path.exists()


def test_eight_bits_take_rows_that_are_short_empty_or_all_but_zero(tmp_path):
    path, smallest = tmp_path / "w.safetensors", 2.0**-149
    state = {
        "short": torch.randn(64, 2, 2),
        "empty": torch.zeros(3, 0),
        "no rows": torch.zeros(0, 9),
        "tiny": torch.full((1, 9), 190 * smallest) * torch.tensor([1.0, -1, 0] * 3),
    }
    weights.save(state, path, torch.int8)
    assert load_file(path)["short"].dtype == torch.float16
    read = weights.read(path)
    assert {key: value.shape for key, value in read.items()} == {
        key: value.shape for key, value in state.items()
    }
    assert torch.equal(read["tiny"].sign(), state["tiny"].sign())
    assert (read["tiny"] - state["tiny"]).abs().max() < 100 * smallest


def test_scales_without_their_rows_are_damage(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save({"weight": torch.ones(2, 9)}, path, torch.int8)
    stored = load_file(path)
    del stored["weight"]
    weights.save(stored, path)
    with pytest.raises(WeightsError, match="w.safetensors cannot be read as weights"):
        weights.read(path)


def test_saving_makes_the_folder_and_takes_views(tmp_path):
    path, value = tmp_path / "a" / "b" / "w.safetensors", torch.arange(6.0).view(2, 3).t()
    weights.save({"view": value}, path)
    assert torch.equal(weights.read(path)["view"], value)


def test_a_failed_save_leaves_the_old_file(tmp_path, state, monkeypatch):
    path = tmp_path / "w.safetensors"
    weights.save(state, path)
    before = path.read_bytes()

    def dies_half_way(part, content):
        part.open("wb").write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", dies_half_way)
    with pytest.raises(OSError, match="disk full"):
        weights.save({"other": torch.zeros(1)}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_savers_of_one_path_do_not_meet(tmp_path, monkeypatch):
    """The second saves before the first has ended: both succeed, the last one's file stays."""
    path, alone = tmp_path / "w.safetensors", Path.write_bytes

    def overtaken(*what):
        alone(*what)
        monkeypatch.setattr(Path, "write_bytes", alone)
        weights.save({"second": torch.zeros(1)}, path)

    monkeypatch.setattr(Path, "write_bytes", overtaken)
    weights.save({"first": torch.ones(1)}, path)
    assert list(weights.read(path)) == ["first"] and list(tmp_path.iterdir()) == [path]
