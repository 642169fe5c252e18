"""Classification as a task: likelihood and divergence, against their definitions."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from ppap_lib.errors import GuidanceError
from ppap_lib.guidance.tasks import Classification

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], dtype=torch.float64)


def test_log_prob_is_the_log_softmax_at_the_target():
    target = torch.tensor([2, 1])
    expected = LOGITS.softmax(1)[[0, 1], target].log()
    torch.testing.assert_close(Classification().log_prob(LOGITS, target), expected)


def test_targets_may_be_a_list_or_one_index_for_all():
    task = Classification()
    for target, same in (([2, 1], torch.tensor([2, 1])), (1, torch.tensor([1, 1]))):
        assert torch.equal(task.log_prob(LOGITS, target), task.log_prob(LOGITS, same))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_divergence_is_kl_from_the_tempered_teacher(temperature):
    student = LOGITS.flip(1)
    teacher = Categorical(logits=LOGITS / temperature)
    expected = kl_divergence(teacher, Categorical(logits=student))
    torch.testing.assert_close(Classification(temperature).divergence(student, LOGITS), expected)


def test_divergence_vanishes_only_at_the_tempered_teacher():
    task = Classification(0.5)
    torch.testing.assert_close(
        task.divergence(LOGITS / 0.5, LOGITS), torch.zeros(2, dtype=torch.float64)
    )
    assert bool((task.divergence(LOGITS, LOGITS) > 1e-3).all())


def test_bad_targets_and_outputs_are_refused():
    task = Classification()
    with pytest.raises(GuidanceError, match=r"one class index per image, int64 \[2\]"):
        task.log_prob(LOGITS, torch.tensor([1]))
    with pytest.raises(GuidanceError, match=r"class indices must be in \[0, 3\)"):
        task.log_prob(LOGITS, torch.tensor([0, 3]))
    with pytest.raises(GuidanceError, match=r"logits \[B, K\]"):
        task.log_prob(LOGITS[0], torch.tensor([0]))
    with pytest.raises(GuidanceError, match=r"logits \[B, K\], not a dict: .*model\(x\).logits"):
        task.log_prob({"logits": LOGITS}, torch.tensor([0, 1]))
    for target in ("boots", ["boots"], None, [[0], [0, 1]]):
        with pytest.raises(GuidanceError, match="expected class indices, such as 9"):
            task.log_prob(LOGITS, target)
    with pytest.raises(GuidanceError, match=r"int64 \[2\], not torch.float32"):
        task.log_prob(LOGITS, 1.0)
    with pytest.raises(GuidanceError, match="must match"):
        task.divergence(LOGITS, LOGITS[:1])


def test_nothing_is_read_back_from_a_device():
    """A tensor without values stands for a GPU's, on which the host would wait."""
    output = torch.zeros(2, 3, device="meta")
    target = torch.zeros(2, dtype=torch.int64, device="meta")
    assert Classification().log_prob(output, target).shape == (2,)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_positive_and_finite(temperature):
    with pytest.raises(GuidanceError, match="temperature must be positive and finite"):
        Classification(temperature)
