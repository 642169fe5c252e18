"""Maps of attention: identities of every measure, Grad-CAM against its formula, refusals."""

import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppap_book.errors import StudyError
from ppap_book.measures import attention_maps
from ppap_book.measures.attention_maps import (
    box_masks,
    cam,
    centre,
    energy_ratio,
    map_entropy,
    mean_frequency,
    silhouettes,
)
from ppap_lib import experts
from ppap_lib.experts import lora
from ppap_lib.experts.intervals import Intervals
from ppap_lib.zoo.tiers import tier

B, H, W = 3, 12, 16
GENERATOR = torch.Generator().manual_seed(0)


def random_masks():
    masks = torch.rand(B, H, W, generator=GENERATOR) < 0.3
    masks[:, 0, 0] = True
    return masks


class TestEnergyRatio:
    def test_a_uniform_map_scores_one(self):
        for value in (1.0, 1e-30):
            ratio = energy_ratio(torch.full((B, H, W), value), random_masks())
            torch.testing.assert_close(ratio, torch.ones(B, dtype=torch.float64))

    def test_a_map_inside_the_object_scores_one_over_its_area(self):
        masks = random_masks()
        maps = masks * torch.rand(B, H, W, generator=GENERATOR)
        torch.testing.assert_close(energy_ratio(maps, masks), 1 / masks.double().mean((1, 2)))
        assert energy_ratio(maps, ~masks).tolist() == [0, 0, 0]

    @given(st.integers(0, 1000), st.floats(1e-20, 1e20))
    def test_inside_and_outside_share_the_energy_at_any_scale(self, seed, scale):
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(B, H, W, generator=generator, dtype=torch.float64)
        masks = random_masks()
        area = masks.double().mean((1, 2))
        inside, outside = energy_ratio(maps * scale, masks), energy_ratio(maps, ~masks)
        torch.testing.assert_close(inside * area + outside * (1 - area), torch.ones_like(area))

    def test_random_maps_score_one_on_average(self):
        masks = torch.zeros(2000, 32, 32, dtype=torch.bool)
        masks[:, 8:20, 3:17] = True
        ratio = energy_ratio(attention_maps.random(range(2000), 8, (32, 32)), masks)
        assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / 2000**0.5)

    def test_looking_at_the_middle_pays_for_what_is_in_the_middle(self):
        masks = torch.zeros(1, 33, 33, dtype=torch.bool)
        masks[:, 12:21, 12:21] = True
        assert energy_ratio(centre(1, 33, 33), masks).item() > 2
        assert energy_ratio(centre(1, 33, 33), ~masks).item() < 1
        torch.testing.assert_close(centre(2, 9, 9), centre(2, 9, 9).flip(1).transpose(1, 2))


class TestMapEntropy:
    def test_uniform_is_log_n_and_one_pixel_is_zero(self):
        found = map_entropy(torch.full((B, H, W), 2.0))
        torch.testing.assert_close(found, torch.full((B,), math.log(H * W)).double())
        pixel = torch.zeros(1, H, W)
        pixel[0, 3, 4] = 0.1
        assert map_entropy(pixel).item() == 0

    def test_k_equal_pixels_have_log_k(self):
        masks = random_masks()
        torch.testing.assert_close(map_entropy(masks.float()), masks.double().sum((1, 2)).log())


def test_an_empty_map_has_neither_energy_nor_entropy():
    maps = torch.ones(2, H, W)
    maps[1] = 0
    masks = random_masks()[:2]
    for measured in (energy_ratio(maps, masks), map_entropy(maps)):
        assert measured.isfinite().tolist() == [True, False]


class TestMeanFrequency:
    @pytest.mark.parametrize(("fx", "fy"), [(0, 0), (1, 0), (0, 5), (3, 4), (8, 0)])
    @pytest.mark.parametrize("scale", [1.0, 1e-25])
    def test_a_wave_has_its_own(self, fx, fy, scale):
        y, x = torch.arange(32) / 32, torch.arange(16) / 16
        wave = scale * torch.cos(2 * math.pi * (fx * x[None, :] + fy * y[:, None])).double()
        found = mean_frequency(wave.expand(2, 3, 32, 16))
        assert found.tolist() == pytest.approx([math.hypot(fx, fy)] * 2, abs=1e-6)

    def test_two_waves_mix_by_power(self):
        x = 2 * math.pi * torch.arange(32) / 32
        mixed = (torch.cos(2 * x) + 2 * torch.cos(7 * x)).expand(1, 1, 32, 32)
        assert mean_frequency(mixed).item() == pytest.approx((1 * 2 + 4 * 7) / 5, abs=1e-5)

    def test_white_noise_has_the_mean_of_all_frequencies(self):
        noise = torch.randn(500, 1, 32, 32, generator=GENERATOR)
        assert mean_frequency(noise).mean().item() == pytest.approx(12.3, abs=0.1)

    def test_a_gradient_that_is_zero_has_none(self):
        assert mean_frequency(torch.zeros(1, 1, 8, 8)).isnan().all()


class TestSilhouettes:
    def test_dark_cloth_inside_an_outline_is_object(self):
        images = torch.full((1, 1, 16, 16), -1.0)
        images[..., 4:12, 4:12] = 0.5
        expected = images[:, 0] > 0
        images[..., 6:9, 6:9] = -1
        assert torch.equal(silhouettes(images), expected)


class _Swapped(nn.Module):
    """[B, C, N] as [B, N, C]."""

    def forward(self, x):
        return x.mT


class _Mean(nn.Module):
    """[B, N, C] as [B, C], the last tokens counting more."""

    def forward(self, x):
        return (x * torch.linspace(0, 1, x.shape[1])[:, None]).sum(1)


class TestCam:
    IMAGES = torch.rand(4, 1, 32, 32, generator=GENERATOR) * 2 - 1
    TARGET = torch.tensor([3, 1, 4, 1])

    def by_formula(self, model, layer, as_map, images=IMAGES):
        """Weights are means of gradients; the map is the positive part of the weighted sum."""
        kept = []
        handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        logits = model(images.clone().requires_grad_())
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[range(4), self.TARGET].sum(), kept[0])
        activation, gradient = as_map(kept[0]), as_map(gradient)
        weights = gradient.mean((2, 3), keepdim=True)
        return (weights * activation).sum(1, keepdim=True).relu().detach()

    @pytest.mark.parametrize("frozen", [True, False])
    def test_resnet(self, frozen):
        torch.manual_seed(1)
        model = tier("fashion").classifier("resnet18").eval().requires_grad_(not frozen)
        small = self.by_formula(model, model.layer3, lambda output: output)
        assert small.shape == (4, 1, 8, 8) and bool((small > 0).any())
        expected = nn.functional.interpolate(small, (32, 32), mode="bilinear")[:, 0]
        found = cam(model, self.IMAGES, self.TARGET, "layer3")
        torch.testing.assert_close(found, expected)
        assert all(p.grad is None for p in model.parameters())
        assert not model.layer3._forward_hooks

    def test_transformer(self):
        torch.manual_seed(2)
        model = tier("fashion").classifier("vit").eval()
        small = self.by_formula(
            model, model.blocks[-1].norm1, lambda out: out[:, 1:].mT.reshape(4, 96, 8, 8)
        )
        expected = nn.functional.interpolate(small, (32, 32), mode="bilinear")[:, 0]
        found = cam(model, self.IMAGES, self.TARGET, "blocks.5.norm1")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)

    @pytest.mark.parametrize("layer", ["layers.0", "layers.1.blocks.0.norm1", "norm"])
    def test_channels_last(self, layer):
        torch.manual_seed(4)
        swin = {"patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1)}
        model = timm.models.SwinTransformer((16, 32), in_chans=1, num_heads=(2, 2), **swin).eval()
        self.agrees(model, (16, 32), layer, lambda output: output.permute(0, 3, 1, 2))

    @pytest.mark.parametrize(
        ("size", "patch", "grid"),
        [((16, 64), (8, 8), (2, 8)), ((32, 32), (4, 16), (8, 2)), ((32, 32), (16, 2), (2, 16))],
    )
    @pytest.mark.parametrize("registers", [0, 3])
    def test_tokens_that_are_no_square(self, size, patch, grid, registers):
        torch.manual_seed(5)
        vit = {"embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": registers}
        model = timm.models.VisionTransformer(size, patch, in_chans=1, **vit).eval()
        before = 1 + registers
        self.agrees(
            model, size, "blocks.1.norm1", lambda out: out[:, before:].mT.unflatten(2, grid)
        )

    def test_tokens_that_no_convolution_cut(self):
        """Patches of 4 by 4 pixels, unfolded; and such of 8 by 2, of which the reader must say."""
        torch.manual_seed(6)
        for patch, grid in (((4, 4), None), ((8, 2), (2, 16))):
            unfold = nn.Unfold(patch, stride=patch)
            rows = 16 // patch[0], 32 // patch[1]
            model = nn.Sequential(unfold, _Swapped(), nn.Linear(patch[0] * patch[1], 24))
            model = nn.Sequential(model, nn.Tanh(), _Mean(), nn.Linear(24, 10)).eval()
            self.agrees(model, (16, 32), "1", lambda out, g=rows: out.mT.unflatten(2, g), grid)

    def agrees(self, model, size, layer, as_map, grid=None):
        """`cam` is the formula's map, enlarged, on images [4, 1, *size]."""
        images = torch.rand(4, 1, *size, generator=GENERATOR) * 2 - 1
        small = self.by_formula(model, model.get_submodule(layer), as_map, images)
        expected = nn.functional.interpolate(small, size, mode="bilinear")[:, 0]
        assert bool((expected > 0).any())
        found = cam(model, images, self.TARGET, layer, grid)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)

    def test_experts_have_maps_of_their_own(self):
        torch.manual_seed(3)
        backbone = tier("fashion").classifier("resnet18").eval()
        pair = experts.low_rank(
            backbone, lora.resnet_lora(backbone, rank=2), Intervals(1000, 2)
        ).eval()
        before = cam(backbone, self.IMAGES, self.TARGET, "layer3")
        for member in pair.bank[1].parameters():
            nn.init.normal_(member, std=0.3)
        maps = [cam(pair.bank.merged(k), self.IMAGES, self.TARGET, "layer3") for k in (0, 1)]
        torch.testing.assert_close(maps[0], before)  # a fresh update changes nothing
        assert not torch.allclose(maps[1], before)

    @pytest.mark.parametrize(
        ("layer", "count", "train", "message"),
        [
            ("layer9", 4, False, "no layer 'layer9'"),
            ("layer3", 3, False, "one class each"),
            ("layer3", 4, True, "train mode"),
            ("fc", 4, False, "maps or tokens"),
            ("unused", 4, False, "'unused' runs 0 times"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, layer, count, train, message):
        model = tier("fashion").classifier("resnet18").train(train)
        model.unused = nn.Identity().train(train)
        with pytest.raises(StudyError, match=message):
            cam(model, self.IMAGES, self.TARGET[:count], layer)

    @pytest.mark.parametrize("wrong", [10, -1])
    def test_a_class_that_there_is_not_is_refused(self, wrong):
        model = tier("fashion").classifier("resnet18").eval()
        with pytest.raises(StudyError, match=f"there are 10 classes, from 0: not {wrong}"):
            cam(model, self.IMAGES, torch.tensor([0, 1, wrong, 2]), "layer3")

    @pytest.mark.parametrize("sides", [(8, 8), (3, 7)])
    def test_a_grid_that_cannot_be_told_is_refused(self, sides):
        """As wide as high as deep, or of sides that no convolution has."""
        pooled = nn.AdaptiveAvgPool2d(sides)
        model = nn.Sequential(nn.Conv2d(1, 8, 4, 4), pooled, nn.Flatten(), nn.LazyLinear(10)).eval()
        model(self.IMAGES)
        with pytest.raises(StudyError, match="cannot be told: give grid"):
            cam(model, self.IMAGES, self.TARGET, "1")


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.ones(1, 4, 4), torch.ones(1, 4, 4), "masks are bool"),
        (torch.ones(1, 4, 4), torch.ones(1, 4, 5).bool(), r"\[1, 4, 5\]"),
        (torch.ones(2, 4, 4), torch.zeros(2, 4, 4).bool(), "2 of 2 masks are empty"),
        (-torch.ones(1, 4, 4), torch.ones(1, 4, 4).bool(), "not negative"),
        (torch.ones(4, 4), torch.ones(4, 4).bool(), r"\[B, H, W\]"),
    ],
)
def test_maps_and_masks_that_do_not_fit_are_refused(maps, masks, message):
    with pytest.raises(StudyError, match=message):
        energy_ratio(maps, masks)
    with pytest.raises(StudyError, match="floating"):
        mean_frequency(maps)


class TestBoxes:
    def test_a_box_of_whole_pixels_is_a_rectangle_of_its_area(self):
        boxes = torch.tensor([[3.0, 1.0, 7.0, 2.0], [0.0, 0.0, W, H]])
        masks = box_masks(boxes, (H, W))
        assert masks.dtype == torch.bool and masks.flatten(1).sum(1).tolist() == [4, H * W]
        assert masks[0, 1, 3:7].all()

    @given(st.tuples(*4 * [st.floats(0, H - 1)]), st.floats(0.01, 1))
    def test_a_box_touches_the_pixels_of_all_its_points(self, ends, width):
        left, top = ends[:2]
        right, bottom = (min(a + width + b, H) for a, b in zip((left, top), ends[2:], strict=True))
        mask = box_masks(torch.tensor([[left, top, right, bottom]]).double(), (H, W))[0]
        x, y = (torch.linspace(a, b, 9)[1:-1].long() for a, b in ((left, right), (top, bottom)))
        assert mask[y[:, None], x[None, :]].all()
        area = (math.ceil(right) - math.floor(left)) * (math.ceil(bottom) - math.floor(top))
        assert int(mask.sum()) == area

    @pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 9, 7, 8], [W, 0, W + 3, 4], [-3, 0, 0, 4]])
    def test_a_box_without_a_pixel_is_refused(self, box):
        boxes = torch.tensor([[0, 0, 2, 2], box]).float()
        with pytest.raises(StudyError, match=r"boxes \[1\] touch no pixel of 12x16"):
            box_masks(boxes, (H, W))

    def test_boxes_have_four_edges(self):
        with pytest.raises(StudyError, match=r"\[2, 3\]"):
            box_masks(torch.zeros(2, 3), (H, W))
