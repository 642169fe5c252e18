"""Files of experts, and sets in the zoo: they come back as they were, with their own backbone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from five_experts import LINEAR, five, images, network, shaken, the_config
from torch import nn
from zoo_folder import ship

from ppap_lib import experts as sets
from ppap_lib import zoo
from ppap_lib.errors import InputError, WeightsError
from ppap_lib.experts import Experts, LoraBank, full_copies, lora, low_rank
from ppap_lib.experts.intervals import Intervals
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
        assert list(entries) == ["n", "T", "plan", "trunk", "trunk_sha256"]
        assert (entries["n"], entries["T"], config) == (5, 1000, the_config(network()))

    def test_what_is_no_set_or_of_another_backbone_is_refused(self, tmp_path):
        path = tmp_path / "set.safetensors"
        weights.save(network().state_dict(), path)
        with pytest.raises(WeightsError, match="not a set of experts"):
            sets.read(path, network())
        weights.save(network().state_dict(), path, metadata={"experts": '{"n": 5, "x": 1}'})
        with pytest.raises(WeightsError, match="unreadably"):
            sets.read(path, network())
        sets.save(five(low_rank), path)
        with pytest.raises(
            WeightsError, match="does not fit this backbone: the backbone has no param"
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
        backbone_card = self.ship_backbone(0, folder)
        backbone = zoo.load(self.BACKBONE, assets=folder)
        convolutions = lora.lora_config(backbone, lambda n, m: isinstance(m, nn.Conv2d), 2, 4.0)
        made = shaken(low_rank(backbone, convolutions, Intervals(1000, 2)))
        path = folder / "weights" / f"{self.NAME}.safetensors"
        sets.save(made, path, self.BACKBONE, backbone_card.sha256)
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

    def ship_backbone(self, seed, folder):
        torch.manual_seed(seed)
        return ship(self.BACKBONE, tier("fashion").classifier("judge"), folder)

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

    def test_a_set_is_refused_after_its_backbone_was_trained_again(self, assets):
        self.ship_backbone(1, assets[0])
        with pytest.raises(WeightsError, match="train the experts again"):
            zoo.load(self.NAME, assets=assets[0])

    def test_a_tampered_or_untrained_set_is_refused(self, assets):
        folder, _, card = assets
        write(replace(card, sha256="0" * 64), folder)
        with pytest.raises(WeightsError, match="sha256"):
            zoo.load(self.NAME, assets=folder)
        write(replace(card, sha256=None, note="its training has not finished"), folder)
        with pytest.raises(WeightsError, match="not trained yet: its training"):
            zoo.load(self.NAME, assets=folder)
