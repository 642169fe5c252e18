"""The guidance study: pairing, what identifies a run, routing as released, and its columns."""

import pytest
import torch

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.studies import gradients, guidance, methods
from ppap_book.studies.guidance import BelowTheEdge, Guidance
from ppap_lib import zoo
from ppap_lib.diffusion.noise import Noise
from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.errors import InputError
from ppap_lib.experts.intervals import Intervals
from ppap_lib.guidance import guided


@pytest.fixture
def quick(two_steps, monkeypatch, tmp_path):
    """Two steps, and a ledger of its own."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))


def test_all_methods_of_a_block_have_the_same_seeds_and_blocks_are_disjoint():
    names = ["none", "naive", "x0_fixed"]
    runs = guidance.grid(iter(names), scales=iter((1.0, 7.5)), n=10, blocks=3)
    assert runs == guidance.grid(names, scales=(1.0, 7.5), n=10, blocks=3)
    assert len(runs) == 3 * (1 + 2 * 2)  # "none" has no scale
    by_block = [runs[i : i + 5] for i in range(0, 15, 5)]
    for block, members in enumerate(by_block):
        assert {run.first_seed for run in members} == {10 * block}
    assert len({ledger.digest(run.recorded()) for run in runs}) == len(runs)
    assert guidance.SWEEP_SEED >= 3 * 10_000  # beyond every block of the study


def test_without_guidance_there_is_one_run_for_all_guides_and_scales():
    def record(**values):
        return Guidance(n=10, **values).recorded()

    assert record(method="none", guide="vit", scale=1.0) == record(method="none", scale=20.0)
    assert record(method="naive", scale=1.0) != record(method="naive", scale=20.0)
    assert record(method="naive")["form"] == "score"
    assert record(method="naive", sampler="ddpm250")["form"] == "mean"
    digests = record(method="naive")
    assert digests["denoiser_sha256"] == zoo.card("fashion/denoiser").sha256
    assert digests["guide_sha256"] == zoo.card("fashion/resnet18").sha256


def test_scale_zero_is_no_guidance(quick):
    none = guidance.draw(Guidance(method="none", n=3))
    zero = guidance.draw(Guidance(method="naive", scale=0.0, n=3))
    torch.testing.assert_close(zero, none, rtol=0, atol=1e-5)
    assert (guidance.draw(Guidance(method="naive", n=3)) - none).abs().max() > 0.01


def test_one_of_each_is_a_run_of_every_method_with_its_verdicts(quick):
    drawn, right = guidance.one_of_each(["none", "naive"])
    assert list(drawn) == list(right) == ["no guidance", "naive off-the-shelf"]
    made = Guidance(method="naive", n=10)
    assert torch.equal(drawn["naive off-the-shelf"], guidance.draw(made))
    found = guidance.judged(made, drawn["naive off-the-shelf"])
    assert right["naive off-the-shelf"] == found["judge_correct"]


def test_verdicts_are_one_where_the_model_agrees():
    def model(images):
        return torch.eye(10)[torch.full((len(images),), 3)]

    assert guidance.verdicts(model, torch.zeros(4, 1, 2, 2), torch.tensor([3, 1, 3, 2])) == [
        1,
        0,
        1,
        0,
    ]


def test_cost_counts_the_denoiser_and_the_guide(quick):
    plain = guidance.cost(Guidance(method="none"))
    assert (plain["evaluations"], plain["gradients"]) == (2, 0)
    # The design's 0.38 GMAC for one evaluation of the denoiser.
    assert plain["gmac_per_image"] / 2 == pytest.approx(0.38, abs=0.01)
    naive, through = (guidance.cost(Guidance(method=m)) for m in ("naive", "x0_through"))
    assert naive["gradients"] == through["gradients"] == 2
    # The gradient through the denoiser costs what a step of it costs, at least.
    assert naive["gmac_per_image"] > plain["gmac_per_image"]
    assert through["gmac_per_image"] - naive["gmac_per_image"] > 0.9 * plain["gmac_per_image"]


def test_a_run_is_recorded_once_with_a_verdict_for_every_image(quick):
    told = []
    runs = guidance.grid(["none", "naive"], n=4, blocks=1)
    guidance.STUDY.record(runs, tell=told.append)
    guidance.STUDY.record(runs, tell=told.append)
    found = {row["params"]["method"]: row["results"] for row in guidance.STUDY.rows()}
    assert len(told) == len(found) == 2
    assert len(found["none"]["judge_correct"]) == 4 and "guide_correct" not in found["none"]
    assert len(found["naive"]["guide_correct"]) == 4
    assert "kid" not in found["naive"]  # four images have no distance


class Named:
    """Stands for experts: says which of five would read."""

    def at(self, level):
        return lambda x: Intervals(1000, 5).indices_of(level.t)


def test_images_that_are_there_already_are_not_drawn_again(quick):
    params = Guidance(method="naive", n=3)
    given = guidance.measure(params, images=guidance.draw(params))
    assert given == guidance.measure(params)
    black = -torch.ones(3, 1, 32, 32)
    found = guidance.measure(params, images=black)
    assert found["judge_correct"] == guidance.judged(params, black)["judge_correct"]


def test_released_routing_moves_edges_to_the_expert_below():
    schedule, cut = Schedule.linear(), Intervals(1000, 5)

    def below(t):
        return int(BelowTheEdge(Named()).at(schedule.at(t))(None))

    assert [below(t) for t in (0, 1, 199, 200, 201, 400, 999)] == [0, 0, 0, 0, 1, 1, 4]
    moved = {
        spacing: [int(t) for t in times if below(t) != int(cut.indices_of(torch.tensor(t)))]
        for spacing, times in (
            (s, [float(level.t) for level in schedule.grid(s)[:-1]]) for s in ("ddim25", "250")
        )
    }
    assert moved == {"ddim25": [800, 600, 400, 200], "250": []}


def test_released_routing_needs_experts():
    """Said of the parameters: not after hours, by the row whose turn it is."""
    for method in ("none", "naive", "x0_through"):
        with pytest.raises(InputError, match=f"{method} has no experts"):
            Guidance(method=method, released_routing=True)
    assert Guidance(method="single", released_routing=True).released_routing


def test_gradients_are_compared_on_the_same_images(monkeypatch):
    monkeypatch.setattr(gradients, "YARDSTICK", "naive")
    made = gradients.Gradients(methods=("naive", "x0_fixed"), n=3, spacing="2")
    assert made.weights == (zoo.card("fashion/resnet18").sha256,) * 2
    found = gradients.measure(made)
    assert found["t"] == [float(level.t) for level in Schedule.linear().grid("2")[:-1]]
    assert found["cosine"]["naive"] == pytest.approx([1, 1], abs=1e-5)
    # What guidance at scale 1 does to eps at the first timestep, image by image.
    level, part = Schedule.linear().grid("2")[0], range(3)
    x_t, denoise = Noise(part, (1, 32, 32))(), zoo.load("fashion/denoiser").clipped().denoise
    plain, model = denoise(x_t, level).eps, zoo.load("fashion/resnet18")
    pulls = {}
    for method in made.methods:
        field = methods.field(method, model, torch.arange(3))
        pulls[method] = (guided(denoise, field, 1.0)(x_t, level).eps - plain).flatten(1).double()
        share = pulls[method].pow(2).sum(1).sqrt() / plain.double().flatten(1).pow(2).sum(1).sqrt()
        assert found["share_of_eps"][method][0] == pytest.approx(float(share.mean()), rel=1e-3)
    a, b = pulls["x0_fixed"], pulls["naive"]
    cosine = (a * b).sum(1) / (a.pow(2).sum(1) * b.pow(2).sum(1)).sqrt()
    assert found["cosine"]["x0_fixed"][0] == pytest.approx(float(cosine.mean()), abs=1e-3)


def test_gradients_of_a_guide_that_is_not_trained_are_refused(monkeypatch):
    monkeypatch.setattr(methods.zoo, "obtainable", lambda name: False)
    with pytest.raises(StudyError, match="no guide vit of tin10 is trained yet"):
        gradients.grid("vit", tier="tin10")


def test_without_the_yardstick_there_is_no_cosine():
    made = gradients.Gradients(methods=("x0_fixed",), n=2, spacing="2")
    assert "cosine" not in gradients.measure(made)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("nave",)}, "no guidance method 'nave'"),
        ({"methods": ()}, "at least one method"),
        ({"methods": ("none",)}, "no guidance has no gradient"),
        ({"methods": ("naive",), "spacing": "zz"}, "zz"),
    ],
)
def test_gradients_that_cannot_be_are_refused_before_anything_is_drawn(values, message):
    with pytest.raises(ValueError, match=message):
        gradients.Gradients(**values)


def test_directions_of_tiny_gradients_are_compared_too():
    grad = 1e-9 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert gradients._cosine(grad, grad).tolist() == pytest.approx([1, 1])
    assert gradients._cosine(grad, torch.zeros_like(grad)).tolist() == [0, 0]
