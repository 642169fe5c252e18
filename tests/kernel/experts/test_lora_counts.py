"""Low-rank updates at the paper's scale: what is trained, and how many parameters."""

import itertools

import pytest
import torch

from ppap_lib.experts import lora
from ppap_lib.experts.lora import LoraUpdate


@pytest.fixture(scope="module")
def resnet50():
    import timm

    with torch.device("meta"):
        return timm.create_model("resnet50", pretrained=False)


class TestPublishedCounts:
    """Parameters per expert at the paper's scale, on the meta device: no memory, no time."""

    @staticmethod
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    def test_resnet50(self, resnet50):
        assert self.count(resnet50) == 25_557_032
        low_rank = lora.lora_config(resnet50, ("conv1", "layer*.conv1", "layer*.conv2"), 16, 8.0)
        assert len(low_rank.layers) == 33 and low_rank.scale == 0.5
        assert self.count(LoraUpdate(resnet50, low_rank)) == 1_410_352

    def test_resnet50_with_norms(self, resnet50):
        config = lora.resnet_lora(resnet50)
        assert self.count(LoraUpdate(resnet50, config)) == 1_463_472
        as_released = [n for n in config.trained if not n.endswith("downsample.1.weight")]
        released = lora.lora_config(resnet50, config.layers, 16, 8.0, as_released)
        assert self.count(LoraUpdate(resnet50, released)) == 1_459_632
        without_fc = set(lora.biases(resnet50)) - {"fc.bias"}
        assert {n for n in as_released if n.endswith(".bias")} == without_fc

    def test_timm_and_torchvision_name_resnet50_alike(self, resnet50):
        from torchvision.models import resnet50 as of_torchvision

        with torch.device("meta"):
            other = of_torchvision().state_dict()
        pairs = itertools.zip_longest(other.items(), resnet50.state_dict().items())
        assert all(a[0] == b[0] and a[1].shape == b[1].shape for a, b in pairs)

    def test_deit_s(self):
        import timm

        with torch.device("meta"):
            deit = timm.create_model("deit_small_patch16_224", pretrained=False)
            config = lora.vit_lora(deit)
            assert len(config.layers) == 24 and config.rank == 32
            assert self.count(LoraUpdate(deit, config)) == 937_192
