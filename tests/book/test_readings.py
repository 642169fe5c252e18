"""How models read noisy images, timestep by timestep."""

import math

import pytest
import torch
from small_experts import FIVE, LABELS, LINEAR, PIXELS, copies, network
from torch import nn

from ppap_book.errors import StudyError
from ppap_book.measures.noisy_accuracy import accuracy_by_t, calibration_error
from ppap_lib.data.pixels import from_bytes
from ppap_lib.diffusion.noise import Noise

IMAGES = from_bytes(PIXELS)


def test_readings_are_those_computed_by_hand():
    model, times = network(2), (0, 250.5, 999)
    seeds = range(100, 140)
    found = accuracy_by_t(model, IMAGES, LABELS, LINEAR, times, seeds, batch=7)
    eps = Noise(seeds, (1, 8, 8), torch.float32)()
    for reading, t in zip(found, times, strict=True):
        with torch.no_grad():
            p = model(LINEAR.at(t).noised(IMAGES, eps)).softmax(1)
        assert reading.t == t and reading.n == 40
        assert reading.accuracy == pytest.approx((p.argmax(1) == LABELS).double().mean().item())
        assert reading.confidence == pytest.approx(p.amax(1).mean().item(), abs=1e-5)
        assert reading.entropy == pytest.approx(-(p * p.log()).sum(1).mean().item(), abs=1e-5)
        ece = calibration_error(p.double().log(), LABELS)
        assert reading.ece == pytest.approx(ece, abs=1e-5)


def test_experts_read_by_their_interval():
    experts = copies(FIVE).eval()
    for k, member in enumerate(experts.bank):
        nn.init.zeros_(member[4].weight)
        member[4].bias.data = torch.tensor([0.0, 0.0, float(k)])
    found = accuracy_by_t(experts, IMAGES, LABELS, LINEAR, (0, 199, 200, 850))
    for reading, k in zip(found, (0, 0, 1, 4), strict=True):
        largest = math.exp(k) / (math.exp(k) + 2)
        assert reading.confidence == pytest.approx(largest, abs=1e-6)
    assert found[0].entropy == pytest.approx(math.log(3))


def test_what_does_not_fit_is_refused():
    with pytest.raises(StudyError, match="train mode"):
        accuracy_by_t(network().train(), IMAGES, LABELS, LINEAR, (0,))
    with pytest.raises(StudyError, match="one seed per image, not 39 for 40"):
        accuracy_by_t(network(), IMAGES, LABELS, LINEAR, (0,), range(39))
    with pytest.raises(StudyError, match="one label"):
        accuracy_by_t(network(), IMAGES, LABELS[:3], LINEAR, (0,))
    for wrong in (3, -1):
        labels = LABELS.clone()
        labels[7] = wrong
        with pytest.raises(StudyError, match=f"there are 3 classes, from 0: not {wrong}"):
            accuracy_by_t(network(), IMAGES, labels, LINEAR, (0,))
    with pytest.raises(StudyError, match="whole numbers, not torch.float32"):
        accuracy_by_t(network(), IMAGES, LABELS.float(), LINEAR, (0,))
