"""Claims: verdicts follow the ledger and the published tables, and lead to source and page."""

import re
from dataclasses import replace

import pytest
import torch
from places import ROOT

from ppap_book import claims, ledger
from ppap_book.claims import Claim
from ppap_book.claims.measures import MEASURES, NoEffect
from ppap_book.errors import StudyError
from ppap_book.statistics.bootstrap import Estimate
from ppap_book.studies import (
    attention,
    expert_training,
    expert_variants,
    guidance,
    intervals,
    noise,
    noisy_accuracy,
    samplers,
    scales,
)

BOOK = ROOT / "book"
CLAIMS = claims.load(BOOK / "claims.yml")
by_id = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
MANY = 60


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))


def claim(metric, above=0.0, below=None, at_least=50, published=None, **rows):
    """A claim of one reading, without a label, and what was published of it."""
    said = {} if published is None else {"where": "a table", "published": {"": published}}
    bounds = {"above": above, "below": below}
    return Claim("a", "A.", "p", metric, rows=rows, at_least=at_least, **bounds, **said)


def answer(metric, **options):
    return claims.judge(claim(metric, **options)).answer


def guided(method, judge, guide=(), released=False, kid=None, **more):
    made = guidance.Guidance(method=method, n=len(judge), released_routing=released, **more)
    results = {"judge_correct": list(judge), "guide_correct": list(guide or judge)}
    if kid is not None:
        results |= contributions(len(judge), kid=kid)
    ledger.record(guidance.STUDY.name, made.recorded(), results, seconds=1.0)


def shares(right, n=MANY):
    """Verdicts on n images of which the first ones are right."""
    return [int(i < right) for i in range(n)]


# --- The register -------------------------------------------------------------------------


def test_the_register_has_at_least_fifteen_claims_all_different():
    assert len(CLAIMS) >= 15
    assert len({claim.claim for claim in CLAIMS}) == len(CLAIMS)


@by_id
def test_every_claim_leads_somewhere(claim):
    keys = re.findall(r"@\w+\{(\w+),", (BOOK / "references.bib").read_text("utf8"))
    assert not claim.source or claim.source in keys
    assert f"file: {claim.page}\n" in (BOOK / "_toc.yml").read_text("utf8")
    assert claim.claim.endswith(".")


@by_id
def test_published_values_are_those_of_the_published_tables(claim):
    for label in claim.readings:
        if label not in claim.published:
            assert claims.published(claim, label) is None
            continue
        found = MEASURES[claim.metric].theirs(**claim.looked_up(label))
        assert found == pytest.approx(claim.published[label], abs=0.005)
    answers = [claims.published(claim, label).answer for label in claim.published]
    # Most of what the authors print is what the claim says that they say.
    assert 2 * answers.count("holds") > len(answers) or not answers


@by_id
def test_a_claim_says_where_it_was_published_or_is_ours(claim):
    assert bool(claim.where) == bool(claim.source or claim.published)
    if claim.published and len(claim.readings) > 1:
        assert claim.counted in claim.published  # nearest to the table is what is in it


def test_a_published_gain_of_fid_is_first_asked_of_kid():
    for claim in CLAIMS:
        if claim.metric in ("gain", "recovered"):
            assert claim.arguments(claim.counted)["column"] == "kid", claim.id


def test_one_noise_aware_model_hurts_in_three_of_four_published_blocks():
    (hurts,) = (claim for claim in CLAIMS if claim.id == "single_hurts")
    answers = [claims.published(hurts, label).answer for label in hurts.published]
    assert sorted(answers) == ["does not hold", "holds", "holds", "holds"]
    (line,) = claims.markdown([hurts]).splitlines()[2:]
    cell = line.split("|")[2]
    assert cell.count("FID gained") == 4 and cell.startswith(" {cite:t}`go2023ppap`, the table")


@by_id
def test_without_rows_nothing_is_claimed(claim, empty):
    for label in claim.readings:
        assert claims.judge(claim, label) == claims.Verdict("undecided", "nothing to compare yet")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("- {id: a, claim: A., page: p}", "entry 1 needs at least id, claim, page and metric"),
        ("- {id: a, claim: A., page: p, metric: luck}", "a: no metric 'luck': gain"),
        (
            "- {id: a, claim: A., page: p, metric: guide_minus_judge, rows: {method: x}}",
            "above None",
        ),
        (
            "- {id: a, claim: A., page: p, metric: guide_minus_judge, abov: 0}",
            "a: no field abov; there are",
        ),
        (
            "- {id: a, claim: A., page: p, metric: guide_minus_judge, above: 0, "
            "rows: {methods: x}}",
            "not what the metric takes",
        ),
        (
            "- {id: a, claim: A., page: p, metric: guide_minus_judge, above: 0, "
            "rows: {method: naive}, readings: {transformer: {guides: vit}}}",
            "not what the metric takes",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 2, below: 1}",
            "not above 2 and below 1",
        ),
        (
            "- {id: a, claim: A., page: p, metric: guide_minus_judge, "
            "rows: {method: naive}, above: 0, where: x, published: {'': 1}}",
            "guide_minus_judge has no published table",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "published: 3}",
            "published is a mapping",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "where: table 1, published: {by KID: 3}}",
            "published of no reading: by KID",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "published: {'': 3}}",
            "`where` names the section",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "where: table 1}",
            "`where` names the section",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "readings: {}}",
            "readings are empty",
        ),
        ("- {id: a, claim: A., page: p, metric: tweak, rows: end, above: 0}", "rows is a mapping"),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "readings: [x]}",
            "readings is a mapping",
        ),
        (
            "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0, "
            "readings: {x: null}}",
            "x is a mapping of names to values, not None",
        ),
        *(
            (
                f"- {{id: a, claim: A., page: p, metric: tweak, rows: {{name: end}}, {bounds}}}",
                "a: a claim says `above` a number",
            )
            for bounds in ("above: .nan", "above: true", "above: '0'", "above: 1, below: 1")
        ),
    ],
)
def test_an_entry_that_cannot_be_judged_is_refused_by_name(tmp_path, entry, message):
    path = tmp_path / "claims.yml"
    path.write_text(entry)
    with pytest.raises(StudyError, match=re.escape(message)):
        claims.load(path)


def test_an_entry_is_there_once(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(
        "- {id: a, claim: A., page: p, metric: tweak, rows: {name: end}, above: 0}\n" * 2
    )
    with pytest.raises(StudyError, match="a is there twice"):
        claims.load(path)


@pytest.mark.parametrize(
    ("metric", "rows", "message"),
    [
        ("gain", {"method": "mult5", "over": "single"}, "did you mean 'multi5'"),
        ("gain", {"method": "multi5", "over": "single", "guide": "resnet50"}, "no guide"),
        ("gain", {"method": "multi5", "over": "single", "column": "kids"}, "'kids': by judge"),
        ("recovered", {"method": "ppap5", "sampler": "dim25"}, "no sampler 'dim25'"),
        ("recovered", {"method": "ppap5", "column": "fid"}, "by judge or kid"),
        ("trained_gain", {"variant": "base", "over": "expert-1"}, "no variant 'expert-1'"),
        ("guide_minus_judge", {"method": "none"}, "no guidance believes in nothing"),
        ("gain", {"method": "multi5", "over": "single", "sampler": "ddim2000"}, "2000"),
        ("routing", {"method": "ppap6"}, "method"),
        ("routing", {"column": "kids"}, "'kids': by judge"),
        ("routing", {"method": "naive"}, "naive has no experts"),
        ("entropy_change", {"start": 0, "end": 301}, "not read at t = 301"),
        ("attention_trend", {"measure": "entrpy"}, "no measure 'entrpy'"),
        ("power_lead", {"of": "colour", "interval": 1}, "no 'colour'"),
        ("power_lead", {"of": "layout", "interval": 6}, "no interval 6: there are"),
        ("composition_lead", {"of": "colour", "interval": 1}, "no 'colour'"),
        ("composition_lead", {"of": "layout", "interval": 5, "over": 6}, "no interval 6"),
        ("composition_lead", {"of": "layout", "interval": 5, "over": 5}, "no lead over itself"),
        (
            "solver_lead",
            {
                "better": "s_pndm",
                "worse": "ddim",
                "budget": 20,
                "method": "ppap5",
                "unclipped": True,
            },
            "without guidance only",
        ),
        ("tweak", {"name": "twoz"}, "two_z"),
        ("by_scale", {"column": "precise", "method": "single", "start": 1, "end": 10}, "precision"),
        ("by_scale", {"column": "recall", "method": "singel", "start": 1, "end": 10}, "single"),
        (
            "by_scale",
            {"column": "recall", "method": "single", "start": 1, "end": 10, "guide": "resnet50"},
            "resnet50",
        ),
        ("solver_lead", {"better": "dpmpp2m", "worse": "ddim", "budget": 10}, "dpmpp_2m"),
    ],
)
def test_a_misspelt_name_is_an_error_and_not_a_missing_row(empty, metric, rows, message):
    with pytest.raises(StudyError, match=f"a: .*{re.escape(message)}"):
        claims.judge(claim(metric, **rows))


def test_a_published_number_that_there_is_not_is_an_error():
    made = claim("gain", published=1.0, method="multi5", over="nonee")
    with pytest.raises(StudyError, match="a: the published table has no 'nonee'"):
        claims.published(made)
    made = claim("gain", published=1.0, method="multi5", over="none", sampler="ddim2000")
    with pytest.raises(StudyError, match="a: "):
        claims.published(made)


def test_of_a_published_number_in_other_units_the_sign_decides(monkeypatch):
    """A bound of a KID of -0.002 or 0.02 is none of an FID."""
    theirs = MEASURES["tweak"]
    for value, no_better, breaks in ((1.45, "holds", "holds"), (-0.001, *["does not hold"] * 2)):
        found = {"tweak": replace(theirs, theirs=lambda name, value=value: value)}
        monkeypatch.setattr("ppap_book.claims.verdicts.MEASURES", found)
        for bound, expected in ((-0.002, no_better), (0.02, breaks)):
            made = claim("tweak", above=bound, published=value, name="end")
            assert claims.published(made).answer == expected


# --- The rule -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "above", "between"),
    [
        ((0.11, 0.2), "holds", "holds"),
        ((0.09, 0.2), "undecided", "undecided"),
        ((0.01, 0.09), "does not hold", "does not hold"),
        ((0.4, 0.6), "holds", "undecided"),
        ((0.51, 0.6), "holds", "does not hold"),
    ],
)
def test_a_claim_holds_if_the_whole_interval_is_within_its_bounds(interval, above, between):
    estimate = Estimate(sum(interval) / 2, *interval)
    assert claim("tweak", above=0.1, name="end").decide(estimate).answer == above
    assert claim("tweak", above=0.1, below=0.5, name="end").decide(estimate).answer == between


def test_between_two_bounds_it_is_said_on_which_side_a_claim_fails():
    half = claim("recovered", above=0.4, below=0.7, method="ppap5")
    assert half.rule == "above 0.4 and below 0.7"
    assert half.decide(Estimate(0.98, 0.97, 0.99)).summary == "does not hold (more)"
    assert half.decide(Estimate(0.1, 0.0, 0.2)).summary == "does not hold (less)"
    assert replace(half, below=None).decide(Estimate(0.1, 0.0, 0.2)).summary == "does not hold"
    assert "<br>rule: above 0.4 and below 0.7 |" in claims.markdown([half])


def test_few_images_decide_nothing(empty):
    guided("naive", [0] * 30)
    guided("multi5", [1] * 30)
    compared = {"method": "multi5", "over": "naive"}
    few = claims.judge(claim("gain", **compared))
    assert few.answer == "undecided" and few.words.endswith("n = 1 x 30: fewer than 50 images")
    assert answer("gain", at_least=30, **compared) == "holds"


@pytest.mark.parametrize("trainings", [1, 2, 3])
def test_networks_trained_fewer_than_three_times_are_compared_provisionally(
    empty, monkeypatch, trainings
):
    """However many the images are: another training would give other ones."""
    monkeypatch.setattr("ppap_book.claims.measures.TRAININGS", trainings)
    compared = claim("gain", method="multi5", over="naive")
    for block in range(3):
        for method, right in (("naive", 0), ("multi5", 50)):
            guided(method, shares(right), first_seed=block * MANY)
    verdict = claims.judge(compared)
    assert verdict.answer == "holds" and verdict.words.endswith("n = 3 x 60")
    assert verdict.provisional == (trainings < 3)
    assert ("**holds** provisionally" in claims.markdown([compared])) == (trainings < 3)


def test_one_network_used_in_two_ways_is_judged_by_images_alone(empty):
    for images in (98, 100):
        for solver, kid in (("ddim", 0.2), ("heun", 0.1)):
            made = samplers.Sampling(solver=solver, n=images)
            results = contributions(images, kid=kid)
            ledger.record(samplers.STUDY.name, made.recorded(), results, seconds=1.0)
        verdict = claims.judge(claim("solver_lead", better="heun", worse="ddim", budget=10))
        assert verdict.answer == "holds" and verdict.provisional == (images < 100)


def test_the_same_is_asked_of_other_rows(empty):
    made = Claim("a", "A.", "p", "gain", rows={"method": "multi5", "over": "naive"}, above=0)
    for method, right, kid in (("naive", 0, 0.1), ("multi5", 50, 0.2)):
        guided(method, shares(right), kid=kid)
    readings = {"by KID": {"column": "kid"}, "by the judge": {}, "transformer": {"guide": "vit"}}
    made = replace(made, readings=readings)
    answers = {label: claims.judge(made, label).answer for label in made.readings}
    assert list(answers.values()) == ["does not hold", "holds", "undecided"]
    assert made.counted == "by KID" and claims.judge(made).answer == "does not hold"
    (line,) = claims.markdown([made]).splitlines()[2:]
    assert (
        line.count("<br>") == 3 and "*by KID*: **does not hold** provisionally: KID gained" in line
    )


# --- The metrics --------------------------------------------------------------------------


def test_methods_are_judged_on_the_same_seeds(empty):
    guided("naive", shares(0))
    guided("multi5", shares(50))
    assert answer("gain", method="multi5", over="naive") == "holds"
    assert answer("gain", method="naive", over="multi5") == "does not hold"
    assert answer("gain", method="naive", over="naive") == "undecided"


def test_a_gain_at_a_swept_scale_is_read_from_the_seeds_of_the_sweep(empty):
    seeds = {"first_seed": guidance.SWEEP_SEED}
    for method, swept, study in (("single", 20, 59), ("multi5", 50, 59)):
        guided(method, shares(swept), scale=1.0, **seeds)
        guided(method, shares(study))
        guided(method, shares(study), scale=1.0)
    compared = {"method": "multi5", "over": "single"}
    assert answer("gain", **compared) == "undecided"
    assert answer("gain", swept=1, **compared) == "holds"
    assert answer("gain", swept=2.5, **compared) == "undecided"  # no rows


def test_what_is_recovered_is_a_share_of_the_gain(empty):
    for method, right in (("none", 6), ("ppap5", 30), ("multi5", 54)):
        guided(method, shares(right))
    found = MEASURES["recovered"].ours("ppap5")
    assert found.estimate.mean == pytest.approx(0.5) and found.images == MANY
    assert answer("recovered", above=0.3, below=0.7, method="ppap5") == "holds"
    (reason,) = MEASURES["recovered"].ours("ppap5", of="none")
    assert reason == "no guidance gained too little for shares of it"


def test_a_gain_that_is_hardly_one_has_no_shares(empty):
    """The gain of 4 of 60 images is 2 standard errors: its share would be anything."""
    for method, right in (("none", 6), ("ppap5", 8), ("multi5", 10)):
        guided(method, shares(right))
    (reason,) = MEASURES["recovered"].ours("ppap5")
    assert "too little" in reason


def test_a_share_of_kid_is_of_how_far_it_fell(empty):
    for method, kid in (("none", 0.30), ("ppap5", 0.24), ("multi5", 0.10), ("naive", 0.35)):
        guided(method, shares(30), kid=kid)
    shared = {m: MEASURES["recovered"].ours(m, column="kid").estimate for m in ("ppap5", "naive")}
    assert shared["ppap5"] == pytest.approx((0.3, 0.3, 0.3))
    assert shared["naive"].mean == pytest.approx(-0.25)


def test_what_is_recovered_at_a_swept_scale_is_of_the_seeds_of_the_sweep(empty):
    for method, swept, study in (("none", 6, 0), ("ppap5", 30, 60), ("multi5", 54, 60)):
        at = {} if method == "none" else {"scale": 1.0}
        guided(method, shares(swept), first_seed=guidance.SWEEP_SEED, **at)
        guided(method, shares(study), **at)
    assert MEASURES["recovered"].ours("ppap5", swept=1).estimate.mean == pytest.approx(0.5)
    assert MEASURES["recovered"].ours("ppap5") == NoEffect()  # not at the published scale


def test_trainings_are_compared_as_guides_after_as_many_images(empty):
    def trained(variant, right, images_seen, kid=0.1):
        asked = expert_training.varied(expert_variants.training(variant, "resnet18").recorded())
        source = "9 images generated by fashion/denoiser with ddim10"
        made = expert_training.Distillation(**asked, source=source, images_seen=images_seen)
        for run in expert_training.guided_by(made, n=MANY):
            results = {"judge_correct": shares(right), **contributions(MANY, kid=kid)}
            ledger.record(expert_training.ABLATION.name, run.recorded(), results, seconds=1.0)

    trained("base", 20, 1000)
    trained("base", 10, 2000)  # nothing to compare it with
    trained("experts-1", 50, 1000, kid=0.3)
    found = MEASURES["trained_gain"].ours("base", "experts-1")
    assert found.estimate.mean == pytest.approx(-0.5) and found.blocks == 1
    assert found.unit == "judge accuracy gained after 1,000 images of training"
    assert MEASURES["trained_gain"].ours("experts-1", "base", column="kid").estimate.mean < 0
    trained("experts-1", 60, 2000)
    assert MEASURES["trained_gain"].ours("base", "experts-1").estimate.mean < -0.8


def test_a_guide_may_believe_in_more_images_than_the_judge(empty):
    guided("x0_fixed", shares(0), guide=shares(60))
    assert answer("guide_minus_judge", method="x0_fixed") == "holds"
    guided("naive", shares(30))
    assert answer("guide_minus_judge", method="naive") == "undecided"


def test_routing_compares_the_same_experts_on_the_same_seeds(empty):
    guided("ppap5", shares(40))
    assert claims.judge(claim("routing")).words == "nothing to compare yet"
    guided("ppap5", shares(20), released=True)
    assert answer("routing") == "holds"
    guided("ppap5", shares(20), sampler="ddpm250")
    guided("ppap5", shares(20), sampler="ddpm250", released=True)
    assert answer("routing", above=-0.01, below=0.01, sampler="ddpm250") == "holds"
    guided("ppap10", shares(40))
    guided("ppap10", shares(40), released=True, first_seed=MANY)
    assert answer("routing", method="ppap10") == "undecided"  # no seed in common


def test_entropy_changes_photograph_by_photograph(empty):
    made = noisy_accuracy.photographs()
    base = [0.1 * i for i in range(20)]
    rise = {0.0: 0.0, 300.0: 4.0, 999.0: 1.5}
    entropies = [[b + rise.get(t, 2.0) for b in base] for t in made.times]
    ledger.record(noisy_accuracy.STUDY.name, made.recorded(), {"entropies": entropies}, seconds=1.0)
    assert answer("entropy_change", at_least=20, start=0, end=300) == "holds"
    assert answer("entropy_change", at_least=20, start=300, end=999) == "does not hold"
    least = MEASURES["least_entropy_change"].ours().estimate
    assert least == pytest.approx((-2.5, -2.5, -2.5))  # from the peak to the end


def test_the_worst_of_many_changes_is_no_change_where_there_is_none(empty):
    """A flat entropy falls somewhere by chance, and where it falls most was picked from 55."""
    made, generator = noisy_accuracy.photographs(), torch.Generator().manual_seed(0)
    false = 0
    for _ in range(40):
        noise = torch.randn(len(made.times), 20, generator=generator).double()
        ledger.record(
            noisy_accuracy.STUDY.name, made.recorded(), {"entropies": noise.tolist()}, seconds=1.0
        )
        false += answer("least_entropy_change", at_least=20) == "does not hold"
        next(ledger.folder().glob(f"{noisy_accuracy.STUDY.name}/*.json")).unlink()
    assert false <= 4  # one of 40 expected; of ordinary 95 % intervals more than half would be


def test_attention_is_read_at_one_noise_level_or_over_all(empty):
    trends = {"entropy": (0.1, 0.05, 0.15), "frequency": (0.1, -0.05, 0.25)}
    overall = {name: Estimate(*t)._asdict() | {"images": 90} for name, t in trends.items()}
    made = attention.by_method("resnet18")["multi5"]
    by_level = {
        name: [{"mean": -t, "low": -t - 1, "high": 1 - t, "images": 80} for t in made.times]
        for name in trends
    }
    found = {"overall": overall, "trend": by_level}
    ledger.record(attention.STUDY.name, made.recorded(), found, seconds=1.0)
    assert MEASURES["attention_trend"].ours("entropy")[:2] == ((0.1, 0.05, 0.15), 90)
    assert MEASURES["attention_trend"].ours("entropy", t=300)[:2] == ((-300, -301, -299), 80)
    assert answer("attention_trend", measure="entropy") == "holds"
    assert answer("attention_trend", measure="entropy", t=100) == "does not hold"
    with pytest.raises(StudyError, match="no attention at t = 250: there is 100"):
        claims.judge(claim("attention_trend", measure="entropy", t=250))
    assert answer("attention_trend", measure="frequency") == "undecided"
    assert claims.judge(claim("attention_trend", measure="entropy", guide="vit")).words[:2] == "no"


def test_an_interval_leads_if_alone_it_changes_more_than_any_other_alone(empty):
    for run in intervals.grid(blocks=2):
        layout = {(1, 1): 0.1, (4, 4): 0.5, (5, 5): 0.8}.get(run.span, 0.2)
        if run.first < run.last:
            layout = 9.0  # several intervals are no rivals
        results = {
            "judge_correct": [1] * run.n,
            "layout": [layout + i for i in range(run.n)],
            "detail": [0.5] * run.n,
        }
        ledger.record(intervals.STUDY.name, run.recorded(), results, seconds=1.0)
    found = MEASURES["power_lead"].ours("layout", 5)
    assert found.estimate == pytest.approx((0.3, 0.3, 0.3)) and found.images == 80
    assert answer("power_lead", of="layout", interval=4) == "does not hold"
    assert answer("power_lead", of="detail", interval=1) == "undecided"
    # By composition the cleanest leads in detail, however little it changes in all.
    made = {"of": "detail", "interval": 1}
    share = {k: MEASURES["composition_lead"].ours(**made, over=k).estimate for k in (4, 5)}
    means = {k: 0.5 / (0.5 + layout + 19.5) for k, layout in ((1, 0.1), (4, 0.5), (5, 0.8))}
    for k, found in share.items():
        assert found.mean == pytest.approx(means[1] - means[k]) and found.low > 0
    assert answer("composition_lead", **made) == "holds"
    assert answer("composition_lead", of="layout", interval=5) == "holds"
    assert answer("composition_lead", of="layout", interval=1, over=5) == "does not hold"


def contributions(n, **means):
    """Results whose images all contribute alike, but for what they share."""
    wave = [0.001 * (i % 7) for i in range(n)]
    return {**means, "witness": [means.get("kid", 0.0) / 2 + w for w in wave]}


def test_a_tweak_is_compared_with_the_plain_sampler_on_its_blocks(empty):
    def tweaked(tweak, seed, kid, **more):
        made = noise.NoiseTweakRun(tweak=tweak, first_seed=seed, **more)
        ledger.record(
            noise.STUDY.name, made.recorded(), contributions(made.n, kid=kid), seconds=1.0
        )

    tweaked("one_z", 0, 0.1)
    tweaked("two_z", 0, 0.12)
    tweaked("end", 0, 0.6, steps=250)  # another number of steps is another question
    tweaked("start", 66, 0.0)  # a block that the plain one lacks
    assert answer("tweak", name="two_z") == "holds"
    assert answer("tweak", above=0.05, name="two_z") == "does not hold"
    assert {answer("tweak", name=name) for name in ("end", "start")} == {"undecided"}
    assert MEASURES["tweak"].ours("two_z").estimate.mean == pytest.approx(0.02)
    for tweak in ("one_z", "two_z"):  # too few images for a distance
        made = noise.NoiseTweakRun(tweak=tweak, steps=1000, n=20)
        ledger.record(noise.STUDY.name, made.recorded(), {"noise_left": [0.1] * 20}, seconds=1.0)
    assert claims.judge(claim("tweak", name="two_z", steps=1000)).words == (
        "rows of 20 images have no kid"
    )


def test_scales_are_compared_in_any_column(empty):
    for scale, inside in ((1.0, 20), (10.0, 60)):
        made = guidance.Guidance(method="single", scale=scale, n=70)
        precise = shares(inside, 70)
        results = {"precision": inside / 70, "precise": precise}
        results |= {"recall": 0.5, "covered": shares(35, 70), "recalled": shares(35, 70)}
        ledger.record(scales.STUDY.name, made.recorded(), results, seconds=1.0)
    towards = {"method": "single", "start": 1, "end": 10}
    assert answer("by_scale", column="precision", **towards) == "holds"
    assert answer("by_scale", column="recall", above=None, below=0.0, **towards) == "undecided"
    assert MEASURES["by_scale"].ours("precision", **towards).estimate.mean == pytest.approx(4 / 7)


def test_solvers_are_compared_at_one_budget_on_one_grid(empty):
    for solver, kid, grid in (
        ("ddim", 0.2, "uniform"),
        ("heun", 0.1, "uniform"),
        ("heun", 0.3, "log_snr"),
    ):
        made = samplers.Sampling(solver=solver, n=70, grid=grid)
        ledger.record(samplers.STUDY.name, made.recorded(), contributions(70, kid=kid), seconds=1.0)
    pair = {"better": "heun", "worse": "ddim"}
    assert answer("solver_lead", budget=10, **pair) == "holds"
    assert answer("solver_lead", budget=20, **pair) == "undecided"
    assert answer("solver_lead", budget=10, grid="log_snr", **pair) == "undecided"
    for solver, kid in (("ddim", 0.1), ("heun", 0.2)):
        made = samplers.Sampling(solver=solver, n=70, unclipped=True)
        ledger.record(samplers.STUDY.name, made.recorded(), contributions(70, kid=kid), seconds=1.0)
    assert answer("solver_lead", budget=10, **pair) == "holds"
    assert answer("solver_lead", budget=10, unclipped=True, **pair) == "does not hold"
    for lower, kid in ((True, 0.1), (False, 0.3)):
        made = samplers.Sampling(solver="dpmpp_2m", n=70, lower_final=lower)
        ledger.record(samplers.STUDY.name, made.recorded(), contributions(70, kid=kid), seconds=1.0)
    pair = {"better": "dpmpp_2m", "worse": "ddim", "budget": 10}
    assert answer("solver_lead", **pair) == "holds"
    assert answer("solver_lead", lower_final=False, **pair) == "does not hold"


def test_the_table_has_a_line_per_claim_and_no_broken_cell():
    lines = claims.markdown(CLAIMS).splitlines()
    assert len(lines) == 2 + len(CLAIMS) and {line.count("|") for line in lines} == {4}


def test_the_landing_page_reads_the_table_as_myst():
    """Else it would show the table's source: plain Markdown has neither tables nor roles."""
    cells = re.findall(r"```\{code-cell\}.*?```", (BOOK / "intro.md").read_text("utf8"), re.DOTALL)
    (cell,) = [cell for cell in cells if "claims.markdown" in cell]
    assert "markdown_format: myst" in cell
