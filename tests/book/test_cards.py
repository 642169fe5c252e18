"""Cards in the book: published, verified, and installed from the command line."""

import json
import lzma
import shutil
from dataclasses import replace

import pytest
import torch
from five_experts import shaken
from torch import nn
from zoo_folder import SETS, untrained_zoo

from ppap_book import cards
from ppap_book.cards import publish, verify
from ppap_book.studies import denoiser_training
from ppap_lib import experts, zoo
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import DataError, InputError, WeightsError
from ppap_lib.experts import Experts, Intervals, lora
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.zoo.cards import Card, write
from ppap_lib.zoo.tiers import tier


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """All cards in a folder of their own, this project's networks untrained; no data, no cache."""
    monkeypatch.delenv("PPAP_DATA", raising=False)
    monkeypatch.setenv("PPAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ppap_lib.data.fashion.DEBIAN", tmp_path / "debian")
    return untrained_zoo(tmp_path / "assets")


def judge(seed=0) -> nn.Module:
    """The smallest network of the zoo, untrained."""
    torch.manual_seed(seed)
    return tier("fashion").classifier("judge").eval()


@pytest.fixture
def guide():
    return judge()


def snapshot(network: nn.Module, folder, name: str = "000012800.safetensors"):
    weights.save(network.state_dict(), folder / name, torch.float16)
    return folder / name


# Networks


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.card(name).kind != "experts"])
def test_networks_have_the_size_that_their_card_says(name):
    checks = {check.statement: check.ok for check in verify(name)}
    assert checks.pop("parameters") and checks.pop("tensors") and False not in checks.values()


@pytest.mark.parametrize("kind", SETS)
def test_sets_that_ship_have_the_size_and_the_digest_that_their_card_says(kind):
    checks = [(check.statement, check.ok) for check in verify(f"fashion/{kind}-vit")]
    assert checks[:3] == [("parameters", True), ("tensors", True), ("sha256", True)]
    assert {ok for _, ok in checks[3:]} == {None}  # numbers, without measures of them


def test_a_set_that_does_not_ship_is_not_checked():
    assert [(c.statement, c.ok) for c in verify("tin10/multi5-vit")] == [("weights", None)]


def test_published_weights_load_as_they_were(assets, guide, tmp_path):
    card = publish("fashion/judge", snapshot(guide, tmp_path), {"data": "a test"}, assets)
    assert card == zoo.card("fashion/judge", assets)
    assert card.images_seen == 12800 and card.data == "a test" and card.note == ""
    path = assets / "weights" / "fashion" / "judge.safetensors.xz"
    assert card.sha256 == weights.sha256(path) and card.bytes == path.stat().st_size
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    found = zoo.load("fashion/judge", assets=assets)(x)
    torch.testing.assert_close(found, guide(x), rtol=0.01, atol=0.01)  # half precision
    assert all(check.ok for check in verify("fashion/judge", assets=assets))


def test_a_card_may_ask_for_eight_bits(assets, guide, tmp_path):
    file = snapshot(guide, tmp_path)
    half = publish("fashion/judge", file, assets=assets)
    asset = {"asset": "fashion/judge8.safetensors.xz", "dtype": "int8"}
    card = publish("fashion/judge", file, {"file": asset}, assets)
    assert card.bytes < 0.65 * half.bytes and card.tensors == half.tensors
    path = assets / "weights" / "fashion" / "judge8.safetensors.xz"
    assert card.file == asset and card.sha256 == weights.sha256(path)
    x = torch.rand(8, 1, 32, 32) * 2 - 1
    found = zoo.load("fashion/judge", assets=assets)(x)
    torch.testing.assert_close(found, guide(x), rtol=0.05, atol=0.05)
    assert all(check.ok for check in verify("fashion/judge", assets=assets))
    with pytest.raises(WeightsError, match="dtype is one of .*not 'int4'"):
        replace(card, file={**asset, "dtype": "int4"})


def test_a_trainer_s_checkpoint_is_published_by_its_average(assets, guide, tmp_path):
    checkpoint = {
        "network": {},
        "ema": guide.state_dict(),
        "progress": {"step": 7, "seconds": 1.0},
        "run": {"batch": 64},
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    card = publish("fashion/judge", tmp_path / "checkpoint.pt", assets=assets)
    assert card.images_seen == 7 * 64
    assert (
        zoo.load("fashion/judge", assets=assets).network.state_dict().keys()
        == guide.state_dict().keys()
    )


def test_long_trainings_count_more_batches_than_float16(assets, guide, tmp_path):
    for name, buffer in guide.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(70_000)
    publish("fashion/judge", snapshot(guide, tmp_path), assets=assets)
    loaded = zoo.load("fashion/judge", assets=assets).network.state_dict()
    assert {int(v) for k, v in loaded.items() if k.endswith("tracked")} == {70_000}


def test_publishing_refuses_what_does_not_fit(assets, guide, tmp_path):
    file = snapshot(guide, tmp_path)
    before = (assets / "cards" / "fashion" / "judge.json").read_text("utf8")
    with pytest.raises(WeightsError, match="does not fit"):
        publish("fashion/vit", file, assets=assets)
    with pytest.raises(WeightsError, match="no fields colour"):
        publish("fashion/judge", file, {"colour": "red"}, assets)
    with pytest.raises(WeightsError, match="published elsewhere"):
        publish("adm_64x64_cond", file, assets=assets)
    state = guide.state_dict()
    key = next(iter(state))
    for factor, message in (
        (1e9, f"{key} reaches .*, beyond the range of torch.float16"),
        (torch.nan, f"fashion/judge would have NaN or infinity in {key}$"),
    ):
        weights.save(state | {key: state[key] * factor}, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError, match=message):
            publish("fashion/judge", tmp_path / "bad.safetensors", assets=assets)
    for name, value in (("name", "../x"), ("name", "fashion/vit"), ("colour", 5)):
        with pytest.raises(WeightsError, match=f"no fields {name}"):
            publish("fashion/judge", file, {name: value}, assets)
    for name, value in (("size", "32"), ("size", 0), ("file", {"asset": "../../x"}), ("note", 5)):
        with pytest.raises((InputError, WeightsError), match=name):
            publish("fashion/judge", file, {name: value}, assets)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="junk.pt"):
        publish("fashion/judge", tmp_path / "junk.pt", assets=assets)
    progress = {"progress": {"step": 1}, "run": {"batch": 2}}
    for foreign in (5, {}, {"ema": state}, progress | {"ema": 5}, progress | {"ema": {key: 5}}):
        torch.save(foreign, tmp_path / "foreign.pt")
        with pytest.raises(WeightsError, match="foreign.pt"):
            publish("fashion/judge", tmp_path / "foreign.pt", assets=assets)
    assert (assets / "cards" / "fashion" / "judge.json").read_text("utf8") == before
    assert not (assets / "weights").exists()


def test_verify_finds_tampered_and_missing_weights(assets, guide, tmp_path):
    publish("fashion/judge", snapshot(guide, tmp_path), assets=assets)
    path = assets / "weights" / "fashion" / "judge.safetensors.xz"
    packed = path.read_bytes()
    content = bytearray(lzma.decompress(packed))
    content[-1] ^= 1
    for tampered in (lzma.compress(content), packed[:-100]):
        path.write_bytes(tampered)
        checks = verify("fashion/judge", assets=assets)
        assert [check.statement for check in checks if check.ok is False] == ["sha256"]
    path.unlink()
    assert verify("fashion/judge", assets=assets)[-1].ok is False
    card = zoo.card("fashion/judge", assets)
    write(replace(card, file={**card.file, "ships": False}, note="train it"), assets)
    assert verify("fashion/judge", assets=assets)[-1].ok is None


def test_verify_compares_numbers_within_the_card_s_tolerance(assets, guide, tmp_path):
    metrics = {"accuracy": {"value": 0.9, "tolerance": 0.01}, "published": {"value": 3.0}}
    publish("fashion/judge", snapshot(guide, tmp_path), {"metrics": metrics}, assets)

    def verdict(found):
        measures = {"accuracy": lambda card, module: found, "published": lambda *_: 0.0}
        checks = {c.statement: c.ok for c in verify("fashion/judge", measures, assets)}
        assert "published" not in checks  # of a publication, which gives no tolerance
        return checks["accuracy"]

    assert verdict(0.91) and not verdict(0.911) and verdict(0.89)

    def skip(card, module):
        return "no data"

    assert verify("fashion/judge", {"accuracy": skip}, assets)[-1].ok is None
    assert verify("fashion/judge", {}, assets)[-1].ok is None


# Sets of experts

NAME, BACKBONE = "fashion/ppap2-judge", "fashion/judge"


@pytest.fixture
def pair(assets, tmp_path):
    """A published backbone, two updates of it, and a card for them; whose file is not there yet."""
    backbone_card = publish(BACKBONE, snapshot(judge(), tmp_path), assets=assets)
    backbone = zoo.load(BACKBONE, assets=assets)
    config = lora.lora_config(backbone, lambda n, m: isinstance(m, nn.Conv2d), 2, 4.0)
    found = shaken(experts.low_rank(backbone, config, Intervals(1000, 2)))
    card = Card(
        name=NAME,
        kind="experts",
        summary="two updates",
        network={"trunk": BACKBONE},
        file={"asset": f"{NAME}.safetensors"},
        license="Apache-2.0",
        data="none",
        channels=1,
        size=32,
        parameters=1,
        tensors=1,
        images_seen=5,
    )
    write(card, assets)
    file = tmp_path / "experts.safetensors"
    experts.save(found, file, BACKBONE, backbone_card.sha256, torch.float16)
    return found, file


def test_a_set_is_published_and_verified(assets, pair):
    found, file = pair
    assert publish(NAME, file, assets=assets).images_seen is None  # not the old card's
    metrics = {"accuracy": {"value": 0.5, "tolerance": 0.01}}
    new = publish(NAME, file, {"images_seen": 7, "metrics": metrics}, assets)
    assert new.images_seen == 7
    assert new.parameters == sum(p.numel() for p in nn.ModuleList(found.bank).parameters())
    x, level = torch.randn(2, 1, 32, 32), Schedule.linear().at(3)
    installed = zoo.load(NAME, assets=assets).at(level)(x)
    again = experts.read(file, zoo.load_network(BACKBONE, assets=assets))
    assert torch.equal(installed, again.at(level)(x))
    # float16 keeps ten bits.
    torch.testing.assert_close(installed, found.at(level)(x), rtol=0.01, atol=0.01)

    def verdicts(value):
        measures = {"accuracy": lambda card, model: value * isinstance(model, Experts)}
        return {c.statement: c.ok for c in verify(NAME, measures, assets)}

    fine = dict.fromkeys(("parameters", "tensors", "sha256", "accuracy"), True)
    assert verdicts(0.505) == fine and verdicts(0.52) == {**fine, "accuracy": False}
    write(replace(new, parameters=1), assets)
    assert verdicts(0.5) == {**fine, "parameters": False}
    write(replace(new, sha256="0" * 64), assets)
    assert verdicts(0.5) == {"sha256": False}


def test_publishing_refuses_what_is_no_set_of_this_backbone(assets, pair, tmp_path):
    found, file = pair
    with pytest.raises(WeightsError, match="not a set of experts written by"):
        publish(NAME, assets / "weights" / "fashion" / "judge.safetensors.xz", assets=assets)
    unsaid = tmp_path / "unsaid.safetensors"
    experts.save(found, unsaid)
    with pytest.raises(WeightsError, match=f"which backbone it was made for: .*{BACKBONE}"):
        publish(NAME, unsaid, assets=assets)
    publish(BACKBONE, snapshot(judge(1), tmp_path), assets=assets)
    with pytest.raises(WeightsError, match="train the experts again"):
        publish(NAME, file, assets=assets)


# The command


def test_a_card_takes_what_the_training_s_summary_says(assets, tmp_path, monkeypatch, capsys):
    """An eps network is measured as one, though the card of the last one said v."""
    measured = []
    monkeypatch.setattr(cards, "_kid", lambda card, model: measured.append(card) or 0.5)
    monkeypatch.setitem(
        cards.METRICS, "KID-lite2, n = 200, DDIM-25", cards.Metric(cards._kid, cards._draws, 0.01)
    )
    for file in ("ema.safetensors", "snapshots/000000064.safetensors"):
        weights.save(tier("fashion").denoiser().state_dict(), tmp_path / file, torch.float16)
    summary = {
        "images_seen": 1000,
        "prediction": "eps",
        "sha256": weights.sha256(tmp_path / "ema.safetensors"),
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    def installed(file, *more):
        install = ["install", "fashion/denoiser", str(tmp_path / file), "--assets", str(assets)]
        assert cards.main([*install, *more]) == 0
        return zoo.card("fashion/denoiser", assets)

    final, early = installed("ema.safetensors"), installed("snapshots/000000064.safetensors")
    assert (final.prediction, final.images_seen) == ("eps", 1000)
    assert [card.prediction for card in measured] == ["eps", "eps"]
    assert (early.prediction, early.images_seen) == ("eps", 64)
    assert installed("ema.safetensors", "--card", "images_seen=5").images_seen == 5
    before = (assets / "cards" / "fashion" / "denoiser.json").read_bytes()
    content = json.dumps(summary).encode()
    for damaged in (b"", content[:-9], b"5", b"null", b"\xff\xfe", b"a: 5", b"[" * 100_000):
        (tmp_path / "summary.json").write_bytes(damaged)
        file = str(tmp_path / "ema.safetensors")
        assert cards.main(["install", "fashion/denoiser", file, "--assets", str(assets)]) == 1
        assert "summary.json is damaged" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"prediction": 5}))
    assert cards.main(["install", "fashion/denoiser", file, "--assets", str(assets)]) == 1
    assert "prediction must be" in capsys.readouterr().err
    assert (assets / "cards" / "fashion" / "denoiser.json").read_bytes() == before
    (tmp_path / "summary.json").unlink()
    assert installed("ema.safetensors").images_seen is None  # and not that of the last weights


def test_installing_from_the_shell_measures_and_verifies(assets, guide, tmp_path, capsys):
    file = snapshot(guide, tmp_path)
    shell = ["--assets", str(assets)]
    arguments = ["install", "fashion/judge", str(file), "--card", "data=mine", "images_seen=5"]
    assert cards.main([*arguments, *shell]) == 0
    assert "test accuracy was not measured" in capsys.readouterr().err
    card = zoo.card("fashion/judge", assets)
    assert card.data == "mine" and card.images_seen == 5
    measured = card.metrics["accuracy on the 1,000 shipped images"]
    assert 0 <= measured["value"] <= 1 and measured["tolerance"] == 0.003
    assert cards.main(["verify", "fashion/judge", *shell]) == 0
    wrong = dict(card.metrics) | {
        "accuracy on the 1,000 shipped images": {"value": 0.95, "tolerance": 0.003}
    }
    write(replace(card, metrics=wrong), assets)
    assert cards.main(["verify", "fashion/judge", *shell]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_what_needs_data_that_is_not_here_is_not_checked(assets, capsys, monkeypatch):
    """Real photographs, in `verify`; and nothing is drawn to be compared with them."""

    def absent(*_):
        raise DataError("Tiny-ImageNet is not here", missing=True)

    monkeypatch.setattr(denoiser_training.distances, "real_features", absent)
    monkeypatch.setattr(denoiser_training, "draw", lambda *_, **__: pytest.fail("drawn in vain"))
    card = zoo.card("fashion/denoiser")
    assert "KID-lite2, n = 200, DDIM-25" in card.metrics
    write(card, assets)
    shutil.copytree(ASSETS / "weights", assets / "weights")
    assert cards.main(["verify", "fashion/denoiser", "--assets", str(assets)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("not checked") and last.endswith("found Tiny-ImageNet is not here")


def test_the_command_explains_mistakes(assets, capsys):
    shell = ["--assets", str(assets)]
    assert cards.main(["verify", "fashion/resnet", *shell]) == 1
    assert "did you mean" in capsys.readouterr().err
    assert cards.main(["install", "fashion/vit", "x", *shell, "--card", "data"]) == 1
    assert "key=value" in capsys.readouterr().err
    assert cards.main(["list"]) == 0
    assert "efficientnet_lite0 | classifier | 3x224x224" in capsys.readouterr().out
