"""Reading the guidance study: pooling, pairing, the choice of scales, and rank agreement."""

from dataclasses import replace
from hashlib import sha256

import pytest

from ppap_book import ledger, paper_tables
from ppap_book.statistics.comparisons import Comparison, of_one_length
from ppap_book.studies import guidance_outcomes, guidance_plan, methods, published
from ppap_book.studies.guidance import STUDY, SWEEP_SEED, Guidance
from ppap_book.studies.guidance_plan import Part
from ppap_lib import zoo


def row(method, right, scale=7.5, first_seed=0, **columns):
    """A ledger row whose image i the judge finds right where right[i]."""
    made = Guidance(method=method, scale=scale, n=len(right), first_seed=first_seed)
    results = {"judge_correct": list(right), "guide_correct": [1] * len(right), **columns}
    return {"params": made.recorded(), "results": results, "seconds": 2.0 * len(right)}


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    """Every method counts as installed, with digests of its own."""
    real = zoo.card

    def card(name, *more):
        return replace(real(name, *more), sha256=sha256(name.encode()).hexdigest())

    monkeypatch.setattr(zoo, "card", card)


def test_blocks_are_pooled_and_columns_averaged():
    rows = [
        row("naive", [1, 0, 0, 0], kid=0.2),
        row("naive", [1, 1, 1, 1], first_seed=4, kid=0.4),
        row("none", [0, 0, 0, 1], kid=0.1),
    ]
    none, naive = guidance_outcomes.outcomes(rows)
    assert (none.method, naive.method) == ("none", "naive")
    assert list(naive.rows) == [0, 4] and naive.mean("judge") == pytest.approx(5 / 8)
    assert naive.get("kid") == pytest.approx(0.3) and naive.get("fd64") is None
    assert naive.mean("guide") == 1.0 and naive.seconds == pytest.approx(2.0)


def test_rows_of_other_weights_other_n_and_the_sweep_are_kept_apart():
    old = row("naive", [1, 1])
    old["params"]["denoiser_sha256"] = "another"
    few = row("naive", [1, 1], first_seed=8)
    swept = row("naive", [1] * 4, first_seed=SWEEP_SEED)
    short, long = guidance_outcomes.outcomes([old, few, swept, row("naive", [0] * 4)])
    assert (short.images, long.images) == (2, 4)
    assert (short.mean("judge"), long.mean("judge")) == (1, 0)
    (found,) = guidance_outcomes.outcomes([old, few, swept], sweep=True)
    assert found.mean("judge") == 1


def test_methods_are_compared_on_the_seeds_they_share():
    a = row("multi5", [1, 1, 1, 1])
    b = row("naive", [0, 0, 1, 1])
    extra = row("naive", [0, 0, 0, 0], first_seed=4)
    found = guidance_outcomes.outcomes([a, b, extra])
    naive, multi = guidance_outcomes.pick(found, ("naive", "multi5"))
    assert Comparison(multi, naive, "judge").difference().mean == pytest.approx(0.5)
    assert multi.shared(naive) == [0] and naive.shared() == [0, 4]
    assert guidance_outcomes.pick(found, ("naive", "ppap5")) is None


def test_longer_blocks_of_some_methods_do_not_part_them_from_the_others():
    rows = [row(method, [0, 1]) for method in ("none", "naive", "multi5")]
    rows += [row(method, [1] * 8) for method in ("naive", "multi5")]
    found = guidance_outcomes.outcomes(rows)
    assert [o.images for o in guidance_outcomes.pick(found, ("none", "naive"))] == [2, 2]
    assert [o.images for o in guidance_outcomes.pick(found, ("naive", "multi5"))] == [8, 8]
    assert {(o.method, o.images) for o in of_one_length(found)} == {
        ("none", 2),
        ("naive", 2),
        ("multi5", 2),
    }
    rows.append(row("none", [1] * 8))
    assert {o.images for o in of_one_length(guidance_outcomes.outcomes(rows))} == {8}
    assert of_one_length([]) == []


def test_a_difference_of_one_image_in_a_hundred_is_not_beyond_doubt():
    rows = [row("multi5", [1] * 94 + [0] * 6), row("naive", [1] * 95 + [0] * 5)]
    naive, multi = guidance_outcomes.outcomes(rows)
    found = Comparison(multi, naive, "judge").difference()
    assert found.high == 0 and found.sign == 0  # exactly: no rounding may move the interval


def test_what_is_missing_of_a_part_is_counted_in_blocks_of_its_length():
    rows = [row("none", [1] * 4), row("none", [1] * 4, first_seed=4)]
    rows += [row("naive", [1] * 4, first_seed=4 * k) for k in range(3)]
    rows += [row("single", [1] * 8), row("multi5", [1] * 4, scale=1.0)]  # other runs
    left = guidance_plan.missing(
        guidance_outcomes.outcomes(rows), Part("resnet18", "ddim25", n=4, blocks=3)
    )
    assert left["none"] == 1 and left["single"] == left["multi5"] == 3
    assert left.keys() == methods.METHODS.keys() - {"naive"}


def test_the_best_scale_is_the_judge_s_choice_and_the_smallest_of_equals():
    seed = SWEEP_SEED
    rows = [
        row("single", right, scale=scale, first_seed=seed)
        for scale, right in ((1.0, [0, 1]), (2.5, [1, 1]), (7.5, [1, 1]), (20.0, [0, 0]))
    ]
    rows.append(row("none", [1, 1], first_seed=seed))  # has no scale to choose
    found = guidance_outcomes.outcomes(rows, sweep=True)
    assert guidance_outcomes.best_scales(found, "resnet18") == {"single": 2.5}
    assert guidance_outcomes.best_scales(found, "vit") == {}


def test_most_images_are_compared_however_they_are_blocked():
    def rows(method, n, blocks):
        return [row(method, [0] * n, first_seed=block * n) for block in range(blocks)]

    long = [*rows("naive", 40, 1), *rows("none", 40, 1)]
    short = [*rows("naive", 2, 3), *rows("none", 2, 3)]
    many = [*rows("naive", 20, 3), *rows("none", 20, 3)]
    for there, n in ((long + short, 40), (short, 2), (long + many, 20), (long + many[:-2], 40)):
        pair = guidance_outcomes.pick(guidance_outcomes.outcomes(there), ("naive", "none"))
        assert {one.params["n"] for one in pair} == {n}


def test_scales_that_the_sweep_cannot_tell_from_the_best():
    """Of 8 images: 8 right at best, then 7, then 0."""
    seed = SWEEP_SEED
    rows = [
        row("single", [1] * right + [0] * (8 - right), scale=scale, first_seed=seed)
        for scale, right in ((1.0, 0), (2.5, 8), (7.5, 7))
    ]
    found = guidance_outcomes.outcomes(rows, sweep=True)
    assert guidance_outcomes.alike_scales(found, "resnet18") == {"single": [7.5]}
    assert guidance_outcomes.alike_scales(found, "vit") == {}


def test_methods_are_compared_each_at_a_scale_of_its_own():
    rows = [
        row(method, [0, 1], scale=scale)
        for method, scale in (("naive", 20.0), ("naive", 7.5), ("ppap5", 7.5), ("none", 0.0))
    ]
    found, scales = guidance_outcomes.outcomes(rows), {"naive": 20.0, "ppap5": 7.5}
    pair = guidance_outcomes.pick(found, ("naive", "ppap5"), scale=scales)
    assert [one.scale for one in pair] == [20.0, 7.5]
    assert guidance_outcomes.pick(found, ("naive", "none"), scale=scales)[1].method == "none"
    assert guidance_outcomes.pick(found, ("naive", "single"), scale=scales) is None


def test_every_swept_method_is_run_at_its_own_best_scale(monkeypatch, tmp_path):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    for method, best in (("single", 2.5), ("naive", 20.0)):
        for scale in (2.5, 20.0):
            made = row(method, [int(scale == best)] * 2, scale=scale, first_seed=SWEEP_SEED)
            ledger.record(STUDY.name, made["params"], made["results"], seconds=1.0)
    runs = guidance_plan.best_runs("resnet18", n=3, blocks=2)
    asked = [(run.first_seed, run.method, run.scale, run.n) for run in runs]
    assert asked == [
        (0, "naive", 20.0, 3),
        (0, "single", 2.5, 3),
        (3, "naive", 20.0, 3),
        (3, "single", 2.5, 3),
    ]
    assert guidance_plan.best_runs("vit") == []


def test_rank_correlation_is_one_for_the_published_numbers_themselves():
    theirs = {
        r["guidance"]: r
        for r in paper_tables.rows("ppap_table")
        if (r["architecture"], r["steps"]) == ("resnet50", 25)
    }

    def columns(name, sign):
        return {ours: sign * theirs[name][column] for ours, column in published.COLUMNS.items()}

    names = {m: "none" if f is None else f.published for m, f in methods.METHODS.items()}
    for sign in (1, -1):
        rows = [row(m, [0, 1], **columns(name, sign)) for m, name in names.items()]
        found = guidance_outcomes.ranks(guidance_outcomes.outcomes(rows), "resnet18")
        assert {c: r.correlation for c, r in found.items()} == pytest.approx(
            dict.fromkeys(published.COLUMNS, sign)
        )
        assert len(found["kid"].ours) == 7  # x0-hat is one published row
    del rows[0]["results"]["fd"]  # as blocks of few images
    assert found.keys() - guidance_outcomes.ranks(
        guidance_outcomes.outcomes(rows), "resnet18"
    ).keys() == {"fd"}
    assert guidance_outcomes.ranks(guidance_outcomes.outcomes(rows[:2]), "resnet18") == {}


def test_methods_of_one_length_without_a_block_that_all_have_are_not_ranked():
    rows = [
        row(method, [1, 0], first_seed=2 * block, kid=0.1, inception_score=1.0, precision=0.5)
        for block, method in enumerate(("naive", "single", "multi5"))
    ]
    assert guidance_outcomes.ranks(guidance_outcomes.outcomes(rows), "resnet18") == {}


def test_the_headline_is_where_five_experts_are_halfway_to_the_ceiling():
    """Between swept scales on a line in their logarithm, below them on one from no guidance."""

    def swept(method, right, scale=0.0):
        return row(method, [int(i < right) for i in range(20)], scale=scale, first_seed=SWEEP_SEED)

    plain, low, high = swept("none", 2), swept("multi5", 6, 1.0), swept("multi5", 14, 4.0)
    found = guidance_outcomes.outcomes([plain, low, high, swept("ppap5", 18, 1.0)], sweep=True)
    half = guidance_outcomes.halfway_scale
    assert half(found, "resnet18", 0.9) == 2.0  # half is .5, in the middle of .3 and .7
    assert half(found, "resnet18", 0.3) == 0.5  # half is .2, in the middle of .1 and .3
    assert half(found, "resnet18", 1.5) is None and half(found, "vit", 0.9) is None
    assert half(guidance_outcomes.outcomes([low, high], sweep=True), "resnet18", 0.9) is None
