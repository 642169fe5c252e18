"""The architecture study: each variant turns one switch, and its loss depends on no batch size."""

import functools

import numpy as np
import pytest
import torch

from ppap_book.measures import cost
from ppap_book.studies import architecture
from ppap_book.studies.architecture import VARIANTS, ArchitectureRun
from ppap_lib.errors import DataError, InputError
from ppap_lib.zoo import datasets

SHAPE = (1, 32, 32)


@functools.cache
def size(variant):
    trial = architecture.network(ArchitectureRun(variant=variant))
    return cost.size(trial, trial, SHAPE)


def test_the_number_of_heads_costs_nothing():
    base = size("base")
    assert [size(name) for name in ("heads_1", "heads_2", "heads_8")] == [base] * 3


def test_depth_and_width_are_compared_at_similar_cost():
    base, deeper, wider = map(size, ("base", "deeper", "wider"))
    assert base.gmac < deeper.gmac < wider.gmac < 1.2 * deeper.gmac
    assert 0.8 < wider.parameters / deeper.parameters < 1


def test_attention_at_more_resolutions_costs_macs_rather_than_parameters():
    names = ("attention_middle", "base", "attention_16", "attention_32")
    sizes = [size(name) for name in names]
    assert sizes == sorted(sizes, key=lambda s: s.parameters)
    assert sizes == sorted(sizes, key=lambda s: s.gmac)
    assert sizes[3].gmac / sizes[1].gmac > 1.5 > 1.03 > sizes[3].parameters / sizes[1].parameters


def test_adagn_is_one_more_vector_per_block():
    blocks = [
        m for m in architecture.network(ArchitectureRun()).modules() if hasattr(m, "emb_layers")
    ]
    one_more = sum(block.emb_layers[1].weight.numel() // 2 for block in blocks)
    one_more += sum(block.emb_layers[1].bias.numel() // 2 for block in blocks)
    assert size("base").parameters - size("added").parameters == one_more


def test_rescaled_residuals_change_the_function_and_no_tensor():
    base, rescaled = (
        architecture.network(ArchitectureRun(variant=v)) for v in ("base", "rescaled")
    )
    state = base.state_dict()
    assert all(state[key].equal(value) for key, value in rescaled.state_dict().items())
    x, t = torch.ones(1, *SHAPE), torch.zeros(1)
    emb = base.time_embed(torch.zeros(1, base.architecture.model_channels))
    assert not base.input_blocks[1](base.input_blocks[0](x, emb), emb).allclose(
        rescaled.input_blocks[1](rescaled.input_blocks[0](x, emb), emb)
    )
    assert base(x, t).equal(rescaled(x, t))  # both begin at zero


def test_a_run_that_changes_nothing_is_told_apart_one_time_in_twenty():
    losses = np.random.default_rng(0).normal(0.4, 0.02, (500, 4))
    beyond = [abs(own - np.mean(base)) > architecture.scatter(base) for own, *base in losses]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.02)
    assert architecture.scatter([0.0, 1.0, 2.0]) == pytest.approx(4.3027 * (4 / 3) ** 0.5, rel=1e-4)
    with pytest.raises(InputError, match="needs two of them or more, not 1"):
        architecture.scatter([0.4])


def test_the_held_out_loss_depends_on_no_batch_size():
    test = datasets.load("fashion", "test")
    trial = architecture.network(ArchitectureRun()).eval()
    losses = [
        architecture.held_out_loss(trial, ArchitectureRun(batch=batch, held_out=12), test)
        for batch in (12, 5)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # An untrained network answers 0, so this is the power of v: between image's and noise's.
    assert 0.3 < losses[0] < 1.1


def test_the_grid_repeats_the_base_alone():
    runs = architecture.grid("fashion", 1.0, seeds=(0, 5))
    assert [run.variant for run in runs if run.seed == 0] == list(VARIANTS)
    assert [run.variant for run in runs if run.seed == 5] == ["base"]


def test_what_trains_on_the_stand_in_is_not_filed(monkeypatch, tmp_path):
    def require(name, split):
        raise DataError(f"no {split} images of {name}")

    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    monkeypatch.setattr(datasets, "require", require)
    with pytest.raises(DataError, match="no train images of fashion"):
        architecture.STUDY.record(architecture.grid("fashion", 0.01))
    assert not any(tmp_path.iterdir())


def test_a_gpu_is_refused():
    with pytest.raises(InputError, match="processor time: run it on the CPU, not meta"):
        architecture.measure(ArchitectureRun(), "meta")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "heads_3"}, "no variant 'heads_3': there are base, deeper"),
        ({"seconds": 0.0}, "seconds must be positive"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
)
def test_bad_parameters_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        ArchitectureRun(**values)
