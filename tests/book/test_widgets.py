"""Explorers: callbacks without a kernel, and the page's view as text."""

import html
import io
import json
import re

import pytest
import torch
from matplotlib.figure import Figure

from ppap_book.errors import StudyError
from ppap_book.widgets import (
    FRAME_LIMIT,
    Explorer,
    ModelView,
    Precomputed,
    encode,
    guidance_explorer,
    timestep_explorer,
    view_of,
)

WIDGET = "application/vnd.jupyter.widget-view+json"


def draw(low, high):
    figure = Figure(figsize=(2, 1))
    figure.subplots().axvspan(low, high)
    return figure


def two(**changes):
    settings = {
        "start": {"low": 0, "high": 2},
        "valid": lambda low, high: low < high,
        "refusal": "the start must be below the end",
        "low": [0, 1, 2],
        "high": [0, 1, 2],
    } | changes
    return Explorer(draw, lambda low, high: f"from {low} to {high} <&>", **settings)


def one(values=(0, 5, 9)):
    return Explorer(lambda t: draw(0, t + 1), "t is {t}".format, labels={"t": "timestep"}, t=values)


def page_data(page):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])


def test_a_slider_redraws_and_describes():
    explorer = two()
    before = explorer.image.value
    explorer.sliders["high"].value = 1
    assert explorer.values == {"low": 0, "high": 1}
    assert explorer.image.value == encode(draw(0, 1)) != before
    assert explorer.status.value == "from 0 to 1 &lt;&amp;&gt;"  # the widget's value is HTML


def test_an_invalid_combination_keeps_the_picture_and_says_why():
    explorer = two()
    before = explorer.image.value
    explorer.sliders["low"].value = 2
    assert explorer.image.value == before
    assert explorer.status.value == "the start must be below the end"
    explorer.sliders["low"].value = 1
    assert explorer.image.value == encode(draw(1, 2))


def test_the_player_moves_the_slider_and_stops_at_the_end():
    explorer = one()
    slider, player = explorer.children[:2]
    assert (player.min, player.max) == (0, 2)
    player.value = 2
    assert slider.value == 9 and explorer.status.value == "t is 9"
    slider.value = 5
    assert player.value == 1


def test_the_page_has_every_valid_frame_and_its_words():
    frames = page_data(two().static_html())["frames"]
    assert {key: frame["text"] for key, frame in frames.items()} == {
        "0,1": "from 0 to 1 <&>",
        "0,2": "from 0 to 2 <&>",
        "1,2": "from 1 to 2 <&>",
    }
    assert len({frame["src"] for frame in frames.values()}) == 3


def test_the_page_starts_where_the_sliders_stand_even_without_script():
    explorer = two()
    explorer.sliders["low"].value = 1
    page = explorer.static_html()
    assert re.findall(r'<input type="range" min="0" max="2" step="1" value="(\d)"', page) == [
        "1",
        "2",
    ]
    image = re.search(r'<img alt="([^"]*)" src="([^"]*)">', page)
    assert html.unescape(image[1]) == "from 1 to 2 <&>"
    assert image[2] == page_data(page)["frames"]["1,2"]["src"]


def test_the_page_needs_no_network_and_cannot_be_broken_by_its_words():
    explorer = Explorer(
        lambda t: draw(0, 1), lambda t: "</script><b>", labels={"t": '"<t>'}, t=["<", '"']
    )
    page = explorer.static_html()
    assert not re.search(r"https?:|//cdn|@import", page)
    assert page.count("</script>") == 2 and "<b>" not in page.replace('<b aria-hidden="true">', "")
    assert page_data(page)["frames"]["0"]["text"] == "</script><b>"
    names = re.search(r'data-names="([^"]*)"', page)[1]
    assert json.loads(html.unescape(names)) == ["<", '"']


def test_the_page_is_the_same_for_the_same_frames_and_named_by_them():
    def name(page):
        return re.search(r'id="(explorer-\w+)"', page)[1]

    assert one().static_html() == one().static_html()
    assert name(one().static_html()) != name(one((0, 5, 8)).static_html())


def test_the_page_may_have_fewer_values_than_the_live_sliders():
    explorer = two(page={"low": [0, 1], "high": [2]})
    assert set(page_data(explorer.static_html())["frames"]) == {"0,0", "1,0"}
    explorer.sliders["low"].value = 1
    assert 'alt="from 1 to 2' in explorer.static_html()
    explorer.sliders["low"].value, explorer.sliders["high"].value = 0, 1
    assert "from 0 to 1 " in explorer.status.value  # live, though the page lacks it
    assert 'alt="from 0 to 2' in explorer.static_html()


def test_what_assistive_technology_needs_is_there():
    page = one().static_html()
    assert 'role="group" aria-label="Explorer: timestep"' in page
    assert re.search(r"<label><span>timestep</span>\s*<input type=\"range\"", page)
    assert '<output aria-live="polite">t is 0</output>' in page
    assert '<button type="button" aria-pressed="false">Play</button>' in page
    assert "<button" not in two().static_html()  # two axes have no order to play


def test_one_object_carries_both_views():
    bundle = one()._repr_mimebundle_()
    assert {WIDGET, "text/html"} <= set(bundle)
    assert bundle["text/html"] == one().static_html()


def test_frames_are_webp():
    assert encode(draw(0, 1))[8:12] == b"WEBP"
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(encode(draw(0, 1), dpi=100)))
    assert image.size == (200, 100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Explorer(draw, str), "at least one axis"),
        (lambda: one(()), r"axis 't' has the values \[\], not None"),
        (lambda: two(start={"low": 7}), r"axis 'low' has the values \[0, 1, 2\], not 7"),
        (lambda: two(start={"lo": 0}), "start names lo, which is no axis"),
        (lambda: two(start={"low": 2, "high": 1}), "is not valid: the start must be below"),
        (lambda: one(range(FRAME_LIMIT + 1)), f"{FRAME_LIMIT + 1} frames are too many"),
        (lambda: two(page={"mid": [1]}), "page names mid, which is no axis"),
        (lambda: two(page={"low": [0, 7]}), r"gives axis 'low' the values \[7\], which it lacks"),
        (lambda: two(page={"low": [1]}), r"axis 'low' has the values \[1\], not 0"),
        (lambda: ranges(points=[5, 5]), r"two points at least, not \[5\]"),
        (lambda: Precomputed(lambda keys: [], [1]), "0 answers for 1 keys"),
    ],
)
def test_an_explorer_that_cannot_be_shown_says_so(make, message):
    with pytest.raises(StudyError, match=message):
        make()


def test_answers_are_prepared_at_once_or_worked_out_when_asked_for():
    calls = []

    def squares(keys):
        calls.append(list(keys))
        return [key**2 for key in keys]

    square = Precomputed(squares, [2, 3, 2])
    assert (square(3), square(2), square(5), square(5)) == (9, 4, 25, 25)
    assert calls == [[2, 3], [5]]
    assert Precomputed(lambda keys: [a + b for a, b in keys])(1, 2) == 3


def picture(value):
    return torch.full((1, 4, 4), float(value))


def ranges(**changes):
    """An explorer of ranges whose images have the brightness (end - begin) / 10."""

    def readings(t):
        return {"clean": ModelView(torch.tensor([0.75, 0.25]).log(), torch.eye(4) * t)}

    settings = {
        "noised": lambda t: picture(t / 10),
        "readings": readings,
        "samples": lambda begin, end: picture((end - begin) / 10)[None],
        "plain": picture(-1)[None],
        "points": [0, 2, 5, 10],
        "classes": ["bag", "coat"],
        "titles": ["coat"],
    }
    return timestep_explorer(**settings | changes)


def test_the_range_explorer_shows_both_ends_and_what_guidance_makes():
    explorer = ranges(page=[0, 5, 10])
    assert explorer.values == {"begin": 0, "end": 10}
    said = explorer.status.value
    assert "timesteps 0 to 9" in said and "at 9 clean sees bag 0.75" in said
    assert set(page_data(explorer.static_html())["frames"]) == {"0,0", "0,1", "1,1"}
    before = explorer.image.value
    explorer.sliders["begin"].value = 2
    assert explorer.image.value != before and "2 to 9" in explorer.status.value
    explorer.sliders["end"].value = 2
    assert "must begin below its end" in explorer.status.value


def test_a_reading_says_what_a_model_sees_and_how_sure_it_is():
    class Aware:
        """Sure at level 0, undecided elsewhere."""

        def at(self, level):
            return lambda x: torch.tensor([[100.0 * (level == 0), 0.0]]).expand(len(x), 2)

    sure, unsure = (view_of(Aware(), picture(0), level) for level in (0, 1))
    assert sure.top(["bag", "coat"], 1) == ["bag 1.00"] and sure.entropy == pytest.approx(0)
    assert unsure.entropy == pytest.approx(0.6931, abs=1e-4) and unsure.attention is None
    plain = view_of(lambda x: torch.zeros(len(x), 4), picture(0), 0)
    assert plain.log_p.exp().tolist() == [0.25] * 4


def test_the_guidance_explorer_turns_class_scale_and_method():
    asked = []

    def samples(cls, scale, method):
        asked.append((cls, scale, method))
        return picture(scale / 10)[None]

    explorer = guidance_explorer(
        samples,
        lambda cls: picture(-1)[None],
        lambda cls, scale, method: f"Judged: {method}.",
        classes=["bag", "coat"],
        scales=[1.0, 5.0, 9.0],
        methods={"naive": "off the shelf", "ppap5": "PPAP-5"},
        page={"cls": ["bag"], "scale": [1.0, 9.0]},
    )
    frames = page_data(explorer.static_html())["frames"]
    assert set(frames) == {f"0,{s},{m}" for s in (0, 1) for m in (0, 1)}
    assert frames["0,1,1"]["text"] == "PPAP-5, scale 9, towards bag. Judged: ppap5."
    explorer.sliders["cls"].value = "coat"
    assert asked[-1] == ("coat", 1.0, "naive") and "towards coat" in explorer.status.value
