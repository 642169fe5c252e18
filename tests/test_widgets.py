"""Explorers: callbacks without a kernel, and the page's view as text."""

import html
import io
import json
import re

import pytest
from matplotlib.figure import Figure

from ppap_lib.widgets import FRAME_LIMIT, Explorer, WidgetError, encode

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
    assert explorer.status.value == "from 0 to 1 <&>"


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
    ],
)
def test_an_explorer_that_cannot_be_shown_says_so(make, message):
    with pytest.raises(WidgetError, match=message):
        make()
