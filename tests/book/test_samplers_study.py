"""The sampler study: what a budget runs, what a row holds, and what rows together say."""

from dataclasses import replace

import pytest
import torch

from ppap_book import ledger, paper_tables
from ppap_book.errors import StudyError
from ppap_book.measures import distances
from ppap_book.statistics.comparisons import Comparison, lead
from ppap_book.studies import methods, published, sampler_standings, samplers
from ppap_book.studies.samplers import Sampling
from ppap_lib import zoo
from ppap_lib.diffusion.denoisers import Prediction
from ppap_lib.diffusion.model import Diffusion
from ppap_lib.errors import InputError
from ppap_lib.samplers import SOLVERS

N = 66
GUIDED = (("resnet18", 7.5), ("resnet18", 1.0), ("vit", 7.5))


def white_noise_denoiser(x_t, level):
    """The denoiser of images that are noise, steered by one gradient."""
    alpha, sigma = level.scales(x_t)
    return Prediction(alpha * x_t, sigma * x_t, gradients=1)


@pytest.fixture
def quick(monkeypatch, tmp_path, pixel_features):
    """Denoiser, features and judge that cost nothing, and a ledger of its own."""
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    load, schedule = zoo.load, zoo.schedule("fashion/denoiser")
    model = Diffusion(white_noise_denoiser, schedule, (1, 32, 32))
    monkeypatch.setattr(methods, "steering", lambda *_, **__: lambda part: model)
    monkeypatch.setattr(
        zoo, "load", lambda name, *rest: model if "denoiser" in name else load(name, *rest)
    )
    real = distances.Features(
        torch.rand(2 * N, 81, generator=torch.Generator().manual_seed(0)), "lite2"
    )
    monkeypatch.setattr(distances, "real_features", lambda *_: real)
    return real


def test_every_solver_of_the_catalogue_runs_under_one_name():
    own = {name for name, one in SOLVERS.items() if one.same_as is None}
    assert len(samplers.FIXED) == 30 and set(samplers.FIXED) == own | {"analytic_ddim"}
    assert set(samplers.TITLES) == {*SOLVERS, "analytic_ddim", "pf"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"solver": "euler"}, "euler is ddim by another name"),
        ({"solver": "dpmpp2m"}, "did you mean 'dpmpp_2m'"),
        ({"solver": "pf"}, "takes a tolerance and no budget"),
        ({"solver": "ddim", "tolerance": 0.1}, "every other solver a budget"),
        ({"solver": "ddim", "method": "ppap7"}, "method must be one of 'none', .*, not 'ppap7'"),
        ({"solver": "ddim", "n": 64}, "n must be at least 66"),
    ],
)
def test_runs_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        Sampling.of(values)


def test_a_budget_that_is_too_small_has_a_reason():
    assert samplers.reason_against(Sampling("ddim", 2)) is None
    assert samplers.reason_against(Sampling("analytic_ddim", 2)) is None
    assert samplers.reason_against(Sampling("pf", None, 0.1)) is None
    for solver, least in (("f_pndm", 13), ("fon", 13), ("prk", 5)):
        assert f"at least {least} ev" in samplers.reason_against(Sampling(solver, least - 1))
        assert len(samplers.levels(Sampling(solver, least))) >= 3
        with pytest.raises(InputError, match=f"at least {least}"):
            samplers.levels(Sampling(solver, least - 1))


def test_without_guidance_there_is_one_run_for_all_guides_and_scales():
    plain = Sampling("ddim", guide="vit", scale=1.0).recorded()
    assert plain == Sampling("ddim", scale=20.0).recorded()
    guided = [Sampling("ddim", method="naive", scale=s).recorded() for s in (1.0, 20.0)]
    assert guided[0] != guided[1]
    assert plain["form"] == "none" and guided[0]["form"] == "score"


def test_only_solvers_that_extrapolate_are_filed_by_how_they_end(quick):
    for solver in samplers.FIXED:
        lowered, full = (Sampling(solver, 20, lower_final=on).recorded() for on in (True, False))
        assert "lower_final" not in full
        assert (lowered != full) == (solver in SOLVERS and SOLVERS[solver].extrapolates)
    ends = []
    for lower_final in (True, False):
        rows = [
            row("ddim", kid=0.1),
            row("dpmpp_2m", kid=0.2),
            row("dpmpp_2m", kid=0.3, lower_final=False),
        ]
        found = sampler_standings.chosen(
            sampler_standings.standings(rows, lower_final=lower_final), 10
        )
        ends.append({name: one.mean("kid") for name, one in found.items()})
    assert ends == [{"ddim": 0.1, "dpmpp_2m": 0.2}, {"ddim": 0.1, "dpmpp_2m": 0.3}]
    drawn = [
        samplers.draw(Sampling("deis_2", 4, n=N, lower_final=on)).images for on in (True, False)
    ]
    assert not torch.equal(*drawn)


def test_a_row_has_the_commit_of_the_code_that_drew(quick, moving_head, monkeypatch):
    draw = samplers.draw

    def moved(*arguments):
        moving_head.append("later")
        return draw(*arguments)

    monkeypatch.setattr(samplers, "draw", moved)
    samplers.STUDY.record([Sampling("ddim", 2, n=N)], tell=lambda line: None)
    (row,) = samplers.STUDY.rows()
    assert len(moving_head) == 2 and row["commit"] == "earlier"


def test_x0_is_left_unclipped_where_the_run_says_so():
    """As PNDM's authors do; rows of clipped runs do not name it, and guidance needs it."""
    clipped, free = (Sampling("ddim", 4, n=66, unclipped=free) for free in (False, True))
    assert "unclipped" not in clipped.recorded() and free.recorded()["unclipped"]
    images = [samplers.draw(run, images=2).images for run in (clipped, free)]
    assert images[0].abs().max() <= 1 + 1e-6 and not torch.equal(*images)
    for wrong in ({"method": "ppap5"}, {"solver": "analytic_ddim"}):
        with pytest.raises(InputError, match="left unclipped without guidance only"):
            replace(free, **wrong)


def test_the_first_images_of_a_run_are_drawn_as_in_the_whole(quick):
    run = Sampling("ddim_1", 4, n=N, first_seed=N)
    whole, few = samplers.draw(run), samplers.draw(run, images=3)
    assert torch.equal(few.images, whole.images[:3])
    assert (few.evaluations, few.gradients) == (whole.evaluations, whole.gradients) == (4, 4)


def test_seconds_are_of_an_image_in_a_full_batch(quick, monkeypatch):
    """By a clock that goes a second at each evaluation of a batch, the last of them half copies."""
    ticks = []
    monkeypatch.setattr(samplers.time, "process_time", lambda: float(len(ticks)))

    def denoise(x_t, level):
        ticks.append(len(x_t))
        return white_noise_denoiser(x_t, level)

    model = Diffusion(denoise, zoo.schedule("fashion/denoiser"), (1, 32, 32))
    monkeypatch.setattr(methods, "steering", lambda *_, **__: lambda part: model)
    run = Sampling("ddim", 4, n=N)
    assert samplers.draw(run, images=3, batch=2).seconds == 2 * 4 / 4
    assert ticks == [2] * 8
    assert samplers.draw(run, images=3).seconds == 4 / max(ticks)


def test_a_row_keeps_to_its_budget_and_says_what_each_image_contributes(quick):
    told = []
    runs = samplers.grid(("ddim", "heun", "analytic_ddim"), (5,), n=N)
    samplers.STUDY.record([*runs, Sampling("pf", None, 0.5, n=N)], tell=told.append)
    rows = {row["params"]["solver"]: row["results"] for row in samplers.STUDY.rows()}
    assert rows.keys() == {"ddim", "heun", "analytic_ddim", "pf"}
    assert told[0].startswith("ddim within 5, no guidance, seeds from 0: 5 steps, 5 evaluations")
    spent = {name: (row["steps"], row["evaluations"]) for name, row in rows.items()}
    assert (spent["ddim"], spent["heun"]) == ((5, 5), (3, 5))
    assert spent["pf"][0] == 2 and (spent["pf"][1] - 3) % 6 == 0
    for row in rows.values():
        assert row["gradients"] == row["evaluations"]
        assert len(row["witness"]) == len(row["judge_correct"]) == N
    # With the real images' own share the witness adds up to KID.
    drawn = samplers.draw(runs[0])
    found = distances.extract(drawn.images)
    theirs = distances.kid_witness(quick[:N], found).mean()
    own = torch.tensor(rows["ddim"]["witness"]).mean()
    # Each is kept to four decimals.
    assert rows["ddim"]["kid"] == pytest.approx(float(own + theirs), abs=1e-4 / N**0.5)

    samplers.STUDY.record(runs[:2], tell=told.append)
    assert len(told) == 4  # what is there is not run again


def row(solver, first_seed=0, kid=0.1, witness=0.0, judge=0.5, sha=None, budget=10, **extra):
    """A ledger row whose images differ a little, alike for all solvers."""
    params = Sampling(solver=solver, budget=budget, first_seed=first_seed, **{"n": N, **extra})
    noise = torch.randn(N, generator=torch.Generator().manual_seed(first_seed)).double()
    results = {
        "kid": kid,
        "witness": (witness + 0.01 * noise).tolist(),
        "judge_correct": [int(i < judge * N) for i in range(N)],
        "steps": budget,
    }
    recorded = params.recorded() | ({"denoiser_sha256": sha} if sha else {})
    return {"study": samplers.STUDY.name, "params": recorded, "results": results, "seconds": 33.0}


def test_blocks_are_pooled_and_rows_of_other_weights_left_out():
    rows = [
        row("ddim", kid=0.1),
        row("ddim", N, kid=0.3),
        row("heun"),
        row("heun", N, sha="0" * 64),
    ]
    ddim, heun = (
        sampler_standings.chosen(sampler_standings.standings(rows), 10)[s] for s in ("ddim", "heun")
    )
    assert (ddim.images, heun.images) == (2 * N, N)
    assert ddim.mean("kid") == pytest.approx(0.2)
    assert ddim.seconds == pytest.approx(0.5)
    low, high = ddim.estimate("kid")[1:]
    # Twice the witness's standard error, 0.01 / sqrt(132), on each side, nearly.
    assert low < 0.2 < high and high - low == pytest.approx(4 * 2 * 0.01 / (2 * N) ** 0.5, rel=0.25)
    # Paired on the block that both have: the images' own differences cancel.
    gap = Comparison(ddim, heun, "kid").difference()
    assert gap.low == gap.high == pytest.approx(0.0)
    with pytest.raises(StudyError, match="share no block"):
        Comparison(heun, sampler_standings.standings([row("ddim", N)])[0], "kid")


def test_what_is_compared_differs_in_its_solver_only():
    rows = [
        row("ddim"),
        row("heun"),
        row("ddim", n=2 * N),  # of a longer block, alone
        *(row("ddim", method="naive", guide=g, scale=s) for g, s in GUIDED),
        row("ddim", extractor="inception"),
        row("ddim", grid="log_snr"),
    ]
    found = sampler_standings.standings(rows)
    plain = sampler_standings.chosen(found, 10)
    assert {name: one.params["n"] for name, one in plain.items()} == {"ddim": N, "heun": N}
    assert plain["ddim"].params["extractor"] == "lite2"
    assert len(sampler_standings.comparable(found, 10)) == 3
    assert lead(plain.values(), "kid").best.solver in plain
    for guide, scale in GUIDED:
        alone = sampler_standings.chosen(found, 10, method="naive", guide_name=guide, scale=scale)[
            "ddim"
        ]
        assert (alone.params["guide"], alone.params["scale"]) == (guide, scale)


def test_the_pick_is_the_best_picture_among_the_most_accurate():
    rows = [
        row("ddim", kid=0.3, judge=0.8),
        row("heun", kid=0.1, judge=0.78),
        row("k_lms", kid=0.05, judge=0.3),
    ]
    found = sampler_standings.standings(rows)
    assert lead(found, "kid").best.solver == "k_lms"
    accurate = lead(found, "judge")
    assert accurate.best.solver == "ddim"
    assert [s.solver for s in accurate.rivals] == ["heun"]  # one image of 66
    picked = sampler_standings.pick(found)
    assert (picked.best.solver, picked.rivals) == ("heun", [])


def test_the_lead_is_that_on_the_seeds_that_all_share():
    """Of another block, which is easier, only the second has a row."""
    rows = [row("ddim", kid=0.2), row("heun", kid=0.3), row("heun", kid=0.0, first_seed=66)]
    found = sampler_standings.standings(rows)
    assert min(found, key=lambda s: s.mean("kid")).solver == "heun"
    assert lead(found, "kid").best.solver == "ddim"


def test_a_rival_that_leads_elsewhere_is_no_less_a_rival():
    """On the seeds that all share A is slightly ahead; of the others B has all right, A none."""
    rows = [row("heun", judge=0.5), row("k_lms", judge=0.4), row("ddim", judge=0.51)]
    rows += [row("ddim", first_seed=66, judge=0.0), row("heun", first_seed=66, judge=1.0)]
    best, rivals = lead(sampler_standings.standings(rows), "judge")
    assert best.solver == "ddim" and "heun" in {rival.solver for rival in rivals}


def test_one_on_other_seeds_than_the_leader_cannot_be_told_from_it():
    rows = [row("ddim", judge=0.9), row("k_lms", judge=0.1), row("heun", first_seed=66, judge=0.1)]
    best, rivals = lead(sampler_standings.standings(rows), "judge")
    assert best.solver == "ddim" and [rival.solver for rival in rivals] == ["heun"]


def test_blocks_that_overlap_are_not_pooled():
    with pytest.raises(StudyError, match="blocks of 66 seeds from 0 and from 40 overlap"):
        sampler_standings.standings([row("ddim"), row("ddim", first_seed=40)])


def test_what_the_full_study_asks_for_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    runs = samplers.whole(blocks=2)
    by_budget = {b: [p.solver for p in runs if p.budget == b] for b in {p.budget for p in runs}}
    assert "f_pndm" not in by_budget[5] + by_budget[10] and "f_pndm" in by_budget[20]
    assert set(by_budget[50]) == {*samplers.FOLLOWED, "s_pndm", "fon"}
    assert len(by_budget[100]) == 2 * len(samplers.FOLLOWED)
    assert set(by_budget[20]) == set(samplers.FIXED)
    # Ten and twenty steps of every solver in the PNDM table.
    for steps in (10, 20):
        for solver, extra in published.WARM_UP.items():
            assert solver in by_budget[steps + extra]
            assert len(samplers.levels(Sampling(solver, steps + extra))) == steps + 1
    assert {(p.solver, p.tolerance) for p in runs if p.budget is None} == {
        ("pf", tolerance) for tolerance in samplers.TOLERANCES
    }
    assert {p.n for p in runs} == {200}
    guided = samplers.whole("ppap5", blocks=2)
    assert {p.n for p in guided} == {100} and {p.budget for p in guided} == {5, 10, 20, 50, 100}
    assert len({ledger.digest(p.recorded()) for p in runs}) == len(runs)
    ledger.record(samplers.STUDY.name, runs[0].recorded(), {"kid": 0.1}, seconds=1)
    assert samplers.STUDY.missing(runs) == runs[1:]


class TestPublished:
    def test_orders_are_compared_over_what_both_tables_hold(self):
        ours = {"ddim": 0.3, "heun": 0.1, "fon": 0.2, "prk": 0.0}
        same = paper_tables.agreement(ours, {"ddim": 9.0, "heun": 3.0, "fon": 5.0})
        assert (same.correlation, same.ours) == (pytest.approx(1), ("heun", "fon", "ddim"))
        other = paper_tables.agreement(ours, {"ddim": 3.0, "heun": 9.0, "fon": 5.0})
        assert other.correlation == pytest.approx(-1) and other.theirs[0] == "ddim"
        assert paper_tables.agreement(ours, {"ddim": 3.0, "heun": 9.0}) is None

    def test_etas(self):
        theirs = published.ddim("cifar10_32", 10)
        assert set(theirs) == set(published.ETAS.values())
        assert theirs["ddim"] < theirs["ddim_1"] < theirs["ddim_sigma_hat"]

    def test_at_equal_steps_the_table_itself(self):
        table = {
            r["method"]: r["fid"]
            for r in paper_tables.rows("pndm")
            if (r["dataset"], r["schedule"], r["steps"]) == ("celeba", "linear", 10)
        }
        found = published.pndm("celeba", "linear", steps=10)
        assert found == pytest.approx(table)

    def test_at_equal_evaluations_between_its_neighbours_and_nowhere_beyond(self):
        found = published.pndm("cifar10", "linear", budget=20)
        # S-PNDM at 11 and 21 evaluations, F-PNDM at 19 and 29.
        assert 7.56 < found["s_pndm"] < 11.6 and 5.00 < found["f_pndm"] < 7.03
        assert found["ddim"] == pytest.approx(10.9)
        assert published.pndm("cifar10", "linear", budget=10).keys() == {"ddim"}
