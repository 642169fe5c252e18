"""Images: the shipped ones, idx files, Tiny-ImageNet, folders, missing and bad files."""

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from ppap_lib import cli
from ppap_lib.data import fashion as fashion_module
from ppap_lib.data import folders
from ppap_lib.data import tiny_imagenet as tiny_module
from ppap_lib.data.fashion import fashion, shipped
from ppap_lib.data.folders import image_folder, imagenet_photographs, scenes
from ppap_lib.data.tiny_imagenet import find, tiny_imagenet
from ppap_lib.errors import DataError, InputError
from ppap_lib.files.download import ASSETS
from ppap_lib.zoo import datasets
from ppap_lib.zoo.tiers import tier


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """No data, no cache, no Debian package."""
    monkeypatch.delenv("PPAP_DATA", raising=False)
    monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_module, "DEBIAN", tmp_path / "debian")


@contextmanager
def missing(message: str):
    """Expect data that are not on this machine."""
    with pytest.raises(DataError, match=message) as caught:
        yield
    assert caught.value.missing


# Fashion-MNIST


def write_idx(folder, name: str, array: np.ndarray, packed: bool) -> str:
    """Write an idx file, and return the digest of its content."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    if packed:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_fashion(monkeypatch, folder, packed=True, split="t10k"):
    """A test set of 20 random images in `folder`, whose digests are the expected ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    for part, array in (
        (f"{split}-images-idx3-ubyte", pixels),
        (f"{split}-labels-idx1-ubyte", labels),
    ):
        digest = write_idx(folder, part, array, packed)
        archive = folder / f"{part}.gz"
        compressed = hashlib.sha256(archive.read_bytes()).hexdigest() if packed else ""
        monkeypatch.setitem(fashion_module._DIGESTS, part, (digest, compressed))
    return torch.from_numpy(pixels), torch.from_numpy(labels)


@pytest.mark.parametrize("place", ["fashion-mnist", ".", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_found_read_and_padded(monkeypatch, tmp_path, place, packed):
    monkeypatch.setenv("PPAP_DATA", str(tmp_path))
    pixels, labels = write_fashion(monkeypatch, tmp_path / place, packed)
    found = datasets.require("fashion", "test")
    assert found.shape == (1, 32, 32) and not found.stand_in and found.classes[9] == "ankle boot"
    assert found.pixels[:, 0, 2:30, 2:30].equal(pixels) and found.labels.equal(labels.long())
    border = found.pixels.clone()
    border[:, :, 2:30, 2:30] = 0
    assert not border.any()


def test_truncated_and_tampered_idx_archives_are_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PPAP_DATA", str(tmp_path))
    write_fashion(monkeypatch, tmp_path)
    archive = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz is truncated"):
        datasets.load("fashion", "test")  # a damaged file is no reason to fall back
    archive.write_bytes(gzip.compress(gzip.decompress(whole)[:-1] + b"!"))
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz is not.*sha256"):
        datasets.require("fashion", "test")


def test_missing_fashion_says_what_to_put_where():
    with missing(r"dataset-fashion-mnist.*\$PPAP_DATA/fashion-mnist"):
        datasets.require("fashion", "train")


def test_missing_fashion_is_downloaded_into_the_cache_when_asked(monkeypatch, tmp_path):
    source = tmp_path / "server"
    pixels, _ = write_fashion(monkeypatch, source)
    monkeypatch.setattr(fashion_module, "_URL", source.as_uri() + "/")
    assert fashion("test", download=True).pixels[:, 0, 2:30, 2:30].equal(pixels)
    assert (tmp_path / "cache" / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").exists()
    assert len(datasets.require("fashion", "test")) == 20  # now found without the network


def test_pages_fall_back_to_the_shipped_images_with_a_note():
    images = datasets.load("fashion", "train")
    assert images.stand_in and len(images) == 1000
    assert "1,000 test images that ship" in images.source and "not here" in images.source


def test_the_shipped_images_are_small_balanced_and_carry_their_licence():
    images = shipped()
    assert torch.bincount(images.labels).tolist() == [100] * 10
    assert images.shape == (1, 32, 32) and not images.stand_in
    archive = ASSETS / "fashion_test_1000.npz"
    assert archive.stat().st_size < 700_000
    notice = (ASSETS / "fashion_test_1000.LICENSE.txt").read_text("utf8")
    assert "Permission is hereby granted" in notice and "Zalando" in notice
    with np.load(archive) as content:
        assert str(content["licence"]) == notice


def test_the_shipped_images_are_the_first_hundred_of_each_class(monkeypatch):
    monkeypatch.undo()
    try:
        official = fashion("test").per_class(100)
    except DataError as reason:
        pytest.skip(str(reason))
    assert official.pixels.equal(shipped().pixels) and official.labels.equal(shipped().labels)


# Tiny-ImageNet

WORDS = {"n01443537": "goldfish, Carassius auratus", "n02085620": "Chihuahua", "n09193705": "alp"}


def picture(value: int) -> np.ndarray:
    """64x64x3, in 2x2 blocks of one colour each so that averaging is exact."""
    rng = np.random.default_rng(value)
    return rng.integers(0, 256, (32, 32, 3), np.uint8).repeat(2, 0).repeat(2, 1)


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")  # lossless; readers go by content, not by name
    return buffer.getvalue()


def tiny_files() -> dict[str, bytes]:
    """Three classes, two training and one val image each; picture numbers tell them apart."""
    files = {
        "wnids.txt": "\n".join(WORDS).encode(),
        "words.txt": "\n".join(f"{w}\t{text}" for w, text in WORDS.items()).encode(),
    }
    annotations = []
    for k, wnid in enumerate(WORDS):
        boxes = []
        for i in range(2):
            name = f"{wnid}_{i}.JPEG"
            files[f"train/{wnid}/images/{name}"] = encoded(picture(10 * k + i))
            boxes.append(f"{name}\t{i}\t2\t33\t63")
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "\n".join(boxes).encode()
        files[f"val/images/val_{k}.JPEG"] = encoded(picture(100 + k))
        annotations.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t63\t63")
    files["val/val_annotations.txt"] = "\n".join(annotations).encode()
    return files


def write_tiny(path, files: dict[str, bytes]):
    """As an archive if `path` ends in .zip, as a folder if not."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"tiny-imagenet-200/{name}", content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("form", ["tiny-imagenet-200.zip", "tiny-imagenet-200"])
def test_tiny_imagenet_from_archive_and_folder(tmp_path, form):
    path = write_tiny(tmp_path / form, tiny_files())
    train = tiny_imagenet(path, "train")
    assert train.classes == ("goldfish", "Chihuahua", "alp")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = torch.from_numpy(np.stack([picture(n) for n in (0, 1, 10, 11, 20, 21)]))
    assert train.pixels.equal(expected.permute(0, 3, 1, 2))
    # Files give first and last pixels; edges lie one past the last.
    assert train.boxes[:2].tolist() == [[0, 2, 34, 64], [1, 2, 34, 64]]
    val = tiny_imagenet(path, "val")
    assert val.labels.tolist() == [0, 1, 2] and val.boxes.tolist() == [[0, 0, 64, 64]] * 3


def test_tiny_imagenet_restricted_to_named_classes_and_averaged(tmp_path):
    path = write_tiny(tmp_path / "tiny.zip", tiny_files())
    chosen = tiny_imagenet(path, "train", ["alp", "n01443537"], size=32)
    assert chosen.classes == ("alp", "goldfish") and chosen.labels.tolist() == [0, 0, 1, 1]
    assert chosen.pixels[0].permute(1, 2, 0).equal(torch.from_numpy(picture(20)[::2, ::2]))
    assert chosen.boxes[0].tolist() == [0, 1, 17, 32]
    with pytest.raises(InputError, match="did you mean Chihuahua"):
        tiny_imagenet(path, "train", ["Chihuaha"])


def test_the_tin10_tier_reads_its_classes_in_its_order(tmp_path, monkeypatch):
    ten = tier("tin10")
    files = {
        "wnids.txt": "\n".join(sorted(ten.wnids, reverse=True)).encode(),
        "words.txt": "\n".join(f"{wnid}\tthing" for wnid in ten.wnids).encode(),
        "val/val_annotations.txt": "\n".join(
            f"val_{k}.JPEG\t{wnid}\t0\t0\t63\t63" for k, wnid in enumerate(ten.wnids)
        ).encode(),
    } | {f"val/images/val_{k}.JPEG": encoded(picture(k)) for k in range(10)}
    write_tiny(tmp_path / "tiny-imagenet-25.zip", files)
    monkeypatch.setenv("PPAP_DATA", str(tmp_path))
    images = datasets.require("tin10", "test")
    assert images.classes == ten.classes and images.labels.tolist() == list(range(10))
    assert images.shape == ten.shape


def test_a_broken_image_is_reported_with_its_path(tmp_path):
    files = tiny_files()
    name = "train/n02085620/images/n02085620_1.JPEG"
    for broken in (b"not an image", files[name][:-200]):
        path = write_tiny(tmp_path / "tiny.zip", files | {name: broken})
        with pytest.raises(DataError, match=name):
            tiny_imagenet(path, "train")
    small = encoded(np.zeros((8, 8, 3), np.uint8))
    path = write_tiny(tmp_path / "tiny", files | {name: small})
    with pytest.raises(DataError, match=f"{name} is 8x8, expected"):
        tiny_imagenet(path, "train")


def test_a_tampered_or_incomplete_archive_is_refused(tmp_path):
    files = tiny_files()
    name = "val/images/val_1.JPEG"
    path = write_tiny(tmp_path / "tiny.zip", files)
    whole = path.read_bytes()
    position = whole.index(files[name]) + 40  # entries are stored, not compressed
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
    with pytest.raises(DataError, match=f"{name} is a broken image.*CRC"):
        tiny_imagenet(path, "val")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="tiny.zip is truncated"):
        tiny_imagenet(path, "val")
    del files["val/val_annotations.txt"]
    with pytest.raises(DataError, match="val_annotations.txt is missing.*layout"):
        tiny_imagenet(write_tiny(tmp_path / "other.zip", files), "val")
    for form in ("empty.zip", "empty"):
        texts = {name: text for name, text in tiny_files().items() if name.endswith(".txt")}
        with pytest.raises(DataError, match="val/images/? is missing.*layout"):
            tiny_imagenet(write_tiny(tmp_path / form, texts), "val")


TEXTS = {
    "wnids.txt": "val",
    "words.txt": "val",
    "val/val_annotations.txt": "val",
    "train/n02085620/n02085620_boxes.txt": "train",
}


@pytest.mark.parametrize("name, split", TEXTS.items())
def test_blank_lines_in_the_text_files_of_an_archive_are_none(tmp_path, name, split):
    files = tiny_files()
    whole = tiny_imagenet(write_tiny(tmp_path / "whole.zip", files), split)
    files[name] = b"\r\n" + files[name].replace(b"\n", b"\r\n\r\n") + b"\n \n\n"
    blank = tiny_imagenet(write_tiny(tmp_path / "blank.zip", files), split)
    assert blank.pixels.equal(whole.pixels) and blank.boxes.equal(whole.boxes)
    assert blank.classes == whole.classes and blank.labels.equal(whole.labels)


@pytest.mark.parametrize("name, split", TEXTS.items())
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"\n\n",
        lambda text: text[:-9],
        lambda text: text[: text.rindex(b"\n")],
        lambda text: text.decode().encode("utf-16"),
        lambda text: b"\xff\xfe" + text,
        lambda text: text.replace(b"\t", b" ").replace(b"n0", b"n"),
        lambda text: bytes(len(text)),
    ],
)
def test_damaged_text_files_of_an_archive_are_named(tmp_path, name, split, damage):
    files = tiny_files()
    files[name] = damage(files[name])
    # Fewer classes are a smaller set, of which nothing tells that it is not whole: but for those
    # that somebody asks for.
    with pytest.raises((DataError, InputError), match=f"{name}|no class"):
        tiny_imagenet(write_tiny(tmp_path / "tiny.zip", files), split, list(WORDS))


def test_missing_tiny_imagenet_says_what_to_put_where_and_nothing_stands_in(tmp_path):
    for read in (find, lambda: datasets.load("tin10")):
        with missing(r"tiny-imagenet-200.zip.*\$PPAP_DATA"):
            read()
    with missing("nowhere.zip"):
        tiny_imagenet(tmp_path / "nowhere.zip", "val")


def test_measurements_take_shipped_photographs_or_none():
    images = datasets.test_images("fashion")
    assert len(images) == 1000 and not images.stand_in
    with missing("tiny-imagenet-200.zip"):
        datasets.test_images("tin10")


def test_distances_are_measured_to_the_split_that_a_tier_names(monkeypatch):
    asked = []
    monkeypatch.setattr("ppap_lib.zoo.datasets.require", lambda *names: asked.append(names))
    datasets.reference_images("fashion")
    datasets.reference_images("tin10")  # whose 500 test images are too few
    assert asked == [("fashion",), ("tin10", "train")]


def test_tiny_imagenet_is_downloaded_into_the_cache_when_asked(tmp_path, monkeypatch):
    source = write_tiny(tmp_path / "server.zip", tiny_files())
    monkeypatch.setattr(tiny_module, "_URL", source.as_uri())
    monkeypatch.setattr(tiny_module, "_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    assert find(download=True) == tmp_path / "cache" / "tiny-imagenet-200.zip" == find()
    assert len(tiny_imagenet(find(), "val")) == 3


def test_the_command_checks_what_is_here(monkeypatch, tmp_path, capsys):
    assert cli.main(["data", "fashion", "--offline"]) == 1
    assert "$PPAP_DATA/fashion-mnist" in capsys.readouterr().err
    for split in ("train", "t10k"):
        write_fashion(monkeypatch, tmp_path / "cache" / "fashion-mnist", split=split)
    assert cli.main(["data", "fashion", "--offline"]) == 0
    assert "all 20 train images" in capsys.readouterr().out


def test_unknown_names_splits_and_sizes_are_refused(tmp_path):
    with pytest.raises(DataError, match="there are fashion, tin10"):
        datasets.load("mnist")
    with pytest.raises(DataError, match="'train' or 'test'"):
        datasets.load("fashion", "validation")
    with pytest.raises(DataError, match="'train' and 'val'"):
        tiny_imagenet(tmp_path, "test")
    with pytest.raises(DataError, match="divide 64"):
        tiny_imagenet(tmp_path, "val", size=48)


# Folders, photographs


def test_image_folders_in_imagenet_layout(tmp_path):
    for k, wnid in enumerate(("n02085620", "n01443537")):
        for i in range(3):
            path = tmp_path / wnid / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (40 + 10 * i, 30), 60 * k + i).save(path)
    images = image_folder(tmp_path, 16, per_class=2)
    assert images.classes == ("goldfish", "Chihuahua")  # folders in sorted order
    assert images.labels.tolist() == [0, 0, 1, 1] and images.shape == (3, 16, 16)
    assert images.pixels[:, 0, 8, 8].tolist() == [60, 61, 0, 1]
    (tmp_path / "n02085620" / "1.png").write_bytes(b"?")
    with pytest.raises(DataError, match="n02085620/1.png is a broken image"):
        image_folder(tmp_path, 16)
    with missing("CLASS/IMAGE"):
        image_folder(tmp_path / "n02085620", 16)


def test_hidden_files_and_folders_are_no_classes(tmp_path):
    """What notebooks, editors and file managers leave behind."""
    for name in ("a/1.png", ".ipynb_checkpoints/2.png", "a/.ipynb_checkpoints/1-checkpoint.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60).save(tmp_path / name)
    (tmp_path / "a" / "._1.png").write_bytes(b"of a Macintosh")
    (tmp_path / ".git").mkdir()
    images = image_folder(tmp_path, 8)
    assert images.classes == ("a",) and len(images) == 1


@pytest.mark.parametrize("build", ["file", "nothing", "empty class", "folder of nothing"])
def test_what_is_no_image_folder_is_named(tmp_path, build):
    root = tmp_path / "images"
    if build == "file":
        root.write_text("?")
    elif build == "empty class":
        (root / "empty").mkdir(parents=True)
    elif build != "nothing":
        root.mkdir()
    with missing("images is no image folder.*CLASS/IMAGE"):
        image_folder(root, 8)


def written(path, array, **options):
    """`path` with a picture of the array, as another library of Python's writes it."""
    Image.fromarray(array).save(path, **options)
    return path


SHADES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_keep_their_values(tmp_path, ending, order):
    grey = folders.decode(written(tmp_path / "8.png", SHADES))
    path = tmp_path / f"16.{ending}"
    deep = SHADES.astype(np.uint16) * 257
    if ending == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + deep.astype(">u2").tobytes())
    else:
        written(path, deep.astype(order))
    assert grey[0].tolist() == SHADES.tolist() and folders.decode(path).equal(grey)


@pytest.mark.parametrize(
    "values", [SHADES.astype(np.float32), SHADES.astype(np.int32)], ids=["float", "int32"]
)
def test_numbers_of_no_known_range_are_refused(tmp_path, values):
    path = written(tmp_path / "numbers.tif", values)
    with pytest.raises(DataError, match=r"numbers.tif.*8 or 16 bits"):
        folders.decode(path)


def with_header(width: int, height: int, kind: int = 2, depth: int = 8) -> bytes:
    """A PNG whose header tells of a picture of another size."""
    head = struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0)
    chunk = b"IHDR" + head
    content = encoded(SHADES)
    return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "content",
    {
        "bomb": with_header(60_000, 60_000),
        "no pixels": with_header(0, 0),
        "short rows": with_header(16, 17),
        "no such colours": with_header(16, 16, kind=5),
        "no such depth": with_header(16, 16, depth=7),
        "empty": b"",
        "text": b"<html>404</html>",
        "head of a PNG": encoded(SHADES)[:30],
        "head of a BMP": b"BM" + bytes(12) + b"\x28" + bytes(20),
        "head of a TIFF": b"II*\0\x08\0\0\0\xff\xff" + bytes(8),
        "head of a GIF": b"GIF89a" + bytes([255] * 7),
        "head of a JPEG": b"\xff\xd8\xff\xc0\x00\x03\x08",
        "head of a WebP": b"RIFF" + bytes([255] * 4) + b"WEBPVP8 " + bytes(8),
        "head of an icon": bytes([0, 0, 1, 0, 1, 0]) + bytes([255] * 16),
    }.items(),
    ids=lambda item: item[0],
)
def test_broken_pictures_are_named(tmp_path, content):
    path = tmp_path / "a" / "picture.png"
    path.parent.mkdir()
    path.write_bytes(content[1])
    for read in (lambda: folders.decode(path), lambda: image_folder(tmp_path, 8)):
        with pytest.raises(DataError, match=r"picture\.png is a broken image"):
            read()


def test_photographs_come_from_installed_packages():
    for photographs, package in ((imagenet_photographs, "foolbox"), (scenes, "scikit-image")):
        try:
            images = photographs(64)
        except DataError as reason:
            assert package in str(reason)
            continue
        assert package in images.source and images.shape == (3, 64, 64)
        assert images.pixels.float().std((1, 2, 3)).min() > 10  # none is blank


def test_the_imagenet_photographs_carry_their_labels():
    try:
        images = imagenet_photographs(32)
    except DataError as reason:
        pytest.skip(str(reason))
    assert len(images) == 20 and images.labels[:3].tolist() == [243, 559, 438]
    assert images.classes[243] == "bull mastiff"


def test_missing_packages_say_what_to_install(monkeypatch):
    monkeypatch.setattr(folders, "package_folder", lambda name: None)
    with missing("pip install --no-deps foolbox"):
        imagenet_photographs()
    with missing("pip install scikit-image"):
        scenes()
