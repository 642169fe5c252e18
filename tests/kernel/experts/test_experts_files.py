"""Files of experts, and sets in the zoo: they come back as they were, with their own backbone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from five_experts import LINEAR, five, images, network, shaken, the_config
from torch import nn

from ppap_book import publishing
from ppap_book.publishing import publish
from ppap_lib import experts as sets
from ppap_lib import zoo
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.experts import Experts, full_copies, lora, low_rank
from ppap_lib.experts.intervals import Intervals
from ppap_lib.experts.lora import LoraBank
from ppap_lib.files import weights
from ppap_lib.files.download import ASSETS
from ppap_lib.networks.vision import Vision
from ppap_lib.zoo.cards import Card, write
from ppap_lib.zoo.tiers import tier


class TestFiles:
    @pytest.mark.parametrize("build", [low_rank, full_copies])
    def test_a_set_returns_as_it_was(self, build, tmp_path):
        experts = five(build)
        path, x = tmp_path / "set.safetensors", images(3)
        sets.save(experts, path)
        again = sets.read(path, network())
        assert again.intervals == experts.intervals and type(again.bank) is type(experts.bank)
        for t in (0, 450, 999):
            assert torch.equal(again.at(LINEAR.at(t))(x), experts.at(LINEAR.at(t))(x))
        assert not again.training and not any(p.requires_grad for p in again.parameters())

    def test_a_set_of_updates_holds_nothing_of_the_backbone(self, tmp_path):
        experts = five(low_rank)
        sets.save(experts, tmp_path / "set.safetensors", dtype=torch.float16)
        state = weights.read(tmp_path / "set.safetensors")
        own = experts.bank[0].state_dict()
        assert state.keys() == {f"{k}.{name}" for k in range(5) for name in own}
        assert state["3.0.lora_A"].dtype == torch.float16
        entries = json.loads(weights.metadata(tmp_path / "set.safetensors")["experts"])
        config = lora.LoraConfig.from_json(entries["plan"])
        assert (entries["n"], entries["T"], config) == (5, 1000, the_config(network()))

    def test_what_is_no_set_or_of_another_backbone_is_refused(self, tmp_path):
        path = tmp_path / "set.safetensors"
        weights.save(network().state_dict(), path)
        with pytest.raises(InputError, match="not a set of experts"):
            sets.read(path, network())
        weights.save(network().state_dict(), path, metadata={"experts": '{"n": 5, "x": 1}'})
        with pytest.raises(InputError, match="unreadably"):
            sets.read(path, network())
        sets.save(five(low_rank), path)
        with pytest.raises(
            InputError, match="does not fit this backbone: the backbone has no param"
        ):
            sets.read(path, nn.Sequential(nn.Linear(2, 2)))
        sets.save(five(full_copies), path)
        with pytest.raises(WeightsError, match="unexpected"):
            sets.read(path, nn.Sequential(nn.Conv2d(1, 16, 3, bias=False)))

    def test_updates_of_different_configs_are_no_set(self, tmp_path):
        net = network()
        configs = (the_config(net), replace(the_config(net), rank=3))
        mixed = Experts(
            LoraBank(net, [lora.LoraUpdate(net, p) for p in configs]), Intervals(1000, 2)
        )
        with pytest.raises(InputError, match="different configurations"):
            sets.save(mixed, tmp_path / "set.safetensors")


class TestZoo:
    NAME, BACKBONE = "fashion/ppap2-judge", "fashion/judge"

    @pytest.fixture
    def assets(self, tmp_path):
        """The zoo's cards with a published backbone (the judge: the smallest) and a set on it."""
        folder = tmp_path / "assets"
        shutil.copytree(ASSETS / "cards", folder / "cards")
        self.publish_backbone(0, tmp_path, folder)
        backbone = zoo.load(self.BACKBONE, assets=folder)
        convolutions = lora.lora_config(backbone, lambda n, m: isinstance(m, nn.Conv2d), 2, 4.0)
        made = shaken(low_rank(backbone, convolutions, Intervals(1000, 2)))
        path = folder / "weights" / f"{self.NAME}.safetensors"
        sets.save(made, path, self.BACKBONE, assets=folder)
        backbone_card = zoo.card(self.BACKBONE, folder)
        card = Card(
            name=self.NAME,
            kind="experts",
            summary="two updates",
            network={"trunk": self.BACKBONE},
            file={"asset": f"{self.NAME}.safetensors"},
            license="Apache-2.0",
            data="none",
            channels=backbone_card.channels,
            size=backbone_card.size,
            parameters=1,
            tensors=1,
            sha256=weights.sha256(path),
        )
        write(card, folder)
        return folder, made, card

    def publish_backbone(self, seed, tmp_path, folder):
        torch.manual_seed(seed)
        state = tier("fashion").classifier("judge").state_dict()
        weights.save(state, tmp_path / "000000001.safetensors")
        publish(self.BACKBONE, tmp_path / "000000001.safetensors", assets=folder)

    def test_a_set_comes_with_its_backbone(self, assets):
        folder, made, _ = assets
        again, x = zoo.load(self.NAME, assets=folder), torch.randn(2, 1, 32, 32)
        for t in (0, 999):
            level = LINEAR.at(t)
            assert torch.equal(again.at(level)(x), made.at(level)(x))

    def test_any_network_is_loaded_by_what_its_card_says(self, assets):
        folder, _, _ = assets
        assert isinstance(zoo.load(self.NAME, assets=folder), Experts)
        assert isinstance(zoo.load(self.BACKBONE, assets=folder), Vision)

    def test_a_file_of_tensors_is_read_once(self, assets, monkeypatch):
        folder, _, card = assets
        found, read = [], weights.read
        monkeypatch.setattr(weights, "read", lambda path, *_: found.append(path) or read(path, *_))
        zoo.load(self.NAME, assets=folder)
        assert [path.name for path in found].count(f"{card.name.split('/')[1]}.safetensors") == 1

    def test_a_set_is_refused_after_its_backbone_was_trained_again(self, assets, tmp_path):
        self.publish_backbone(1, tmp_path, assets[0])
        with pytest.raises(InputError, match="train the experts again"):
            zoo.load(self.NAME, assets=assets[0])

    def test_a_tampered_or_untrained_set_is_refused(self, assets):
        folder, _, card = assets
        write(replace(card, sha256="0" * 64), folder)
        with pytest.raises(WeightsError, match="sha256"):
            zoo.load(self.NAME, assets=folder)
        write(replace(card, sha256=None, note="its training has not finished"), folder)
        with pytest.raises(InputError, match="not trained yet: its training"):
            zoo.load(self.NAME, assets=folder)

    def test_an_unknown_set_is_refused_with_what_there_is(self, assets):
        with pytest.raises(InputError, match="there are .*fashion/ppap2-judge.*; train one, or"):
            zoo.load("fashion/ppap7-resnet18", assets=assets[0])
        with pytest.raises(InputError, match="no set of experts 'fashion/judge'"):
            zoo.load("fashion/judge", assets=assets[0])
        with pytest.raises(WeightsError, match="is a set of experts: zoo.load"):
            zoo.load(self.NAME, assets=assets[0])

    def test_a_set_is_published_and_verified(self, assets, tmp_path):
        folder, made, card = assets
        file = tmp_path / "new.safetensors"
        with torch.no_grad():
            for parameter in made.bank.updates.parameters():
                parameter.mul_(1.5)
        sets.save(made, file, self.BACKBONE, torch.float16, folder)
        metrics = {"accuracy": {"value": 0.5, "tolerance": 0.01}}
        write(replace(card, images_seen=5), folder)
        assert (
            publishing.publish_experts(self.NAME, file, assets=folder).images_seen is None
        )  # not the old's
        new = publishing.publish_experts(
            self.NAME, file, {"images_seen": 7, "metrics": metrics}, folder
        )
        assert new.sha256 != card.sha256 and new.images_seen == 7
        assert new.parameters == sum(p.numel() for p in made.bank.updates.parameters())
        x, level = torch.randn(2, 1, 32, 32), LINEAR.at(3)
        installed = zoo.load(self.NAME, assets=folder).at(level)(x)
        assert torch.equal(
            installed, sets.read(file, zoo.load(self.BACKBONE, assets=folder)).at(level)(x)
        )
        # float16 keeps ten bits.
        torch.testing.assert_close(installed, made.at(level)(x), rtol=0.01, atol=0.01)

        def verdicts(found):
            measures = {"accuracy": lambda card, experts: found * isinstance(experts, Experts)}
            return {c.what: c.ok for c in publishing.verify_experts(self.NAME, measures, folder)}

        fine = dict.fromkeys(("parameters", "tensors", "sha256", "accuracy"), True)
        assert verdicts(0.505) == fine and verdicts(0.52) == {**fine, "accuracy": False}
        write(replace(new, parameters=1), folder)
        assert verdicts(0.5) == {**fine, "parameters": False}
        write(replace(new, sha256="0" * 64), folder)
        assert verdicts(0.5) == {"sha256": False}

    def test_publishing_refuses_what_is_no_set_of_this_backbone(self, assets, tmp_path):
        folder = assets[0]
        path = folder / "weights" / f"{self.NAME}.safetensors"
        with pytest.raises(InputError, match="is a classifier, not a set of experts"):
            publishing.publish_experts(self.BACKBONE, path, assets=folder)
        with pytest.raises(InputError, match="not a set of experts written by"):
            backbone = folder / "weights" / zoo.card(self.BACKBONE, folder).file["asset"]
            publishing.publish_experts(self.NAME, backbone, assets=folder)
        unsaid = tmp_path / "unsaid.safetensors"
        sets.save(sets.read(path, zoo.load(self.BACKBONE, assets=folder)), unsaid)
        with pytest.raises(InputError, match=f"which backbone it was made for: .*{self.BACKBONE}"):
            publishing.publish_experts(self.NAME, unsaid, assets=folder)
        self.publish_backbone(1, tmp_path, folder)
        with pytest.raises(InputError, match="train the experts again"):
            publishing.publish_experts(self.NAME, path, assets=folder)
