"""Published tables: numbers are numbers, and every table says where it comes from."""

import pytest

from ppap_lib import published


def test_every_table_is_whole_and_names_its_source():
    assert {"ppap_table", "ddim_eta", "pndm", "adm_ablation", "noise_tweaks"} <= set(
        published.names()
    )
    for name in published.names():
        assert published.rows(name), name
        assert len(published.source(name)) > 20 and "#" not in published.source(name)


def test_cells_become_numbers_where_they_are_numbers():
    first = published.rows("ppap_table")[0]
    assert first["steps"] == 25 and isinstance(first["steps"], int)
    assert first["fid"] == 40.24 and first["trainable_percent"] is None
    assert first["guidance"] == "none"
    etas = {row["eta"] for row in published.rows("ddim_eta")}
    assert etas == {0.0, 0.2, 0.5, 1.0, "sigma_hat"}


def test_known_orderings():
    """Against slips in the copies: what the papers themselves say of these tables."""
    table = [r for r in published.rows("ppap_table") if r["architecture"] == "resnet50"]
    fid = {r["guidance"]: r["fid"] for r in table if r["sampler"] == "ddim"}
    assert fid["multi_experts_5"] < fid["ppap_10"] < fid["ppap_5"] < fid["naive_off_the_shelf"]
    wide = [r["fid"] for r in published.rows("noise_tweaks") if r["beta_end"] == 0.04]
    assert wide == [218.54]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1\n", "row 1 does not fit"), ("a,b\n1,2\n3,4,5\n", "row 2 does not fit")],
)
def test_a_torn_row_is_refused(text, message, tmp_path):
    (tmp_path / "torn.csv").write_text(text, "utf8")
    with pytest.raises(published.PublishedError, match=message):
        published.rows("torn", tmp_path)


def test_what_is_wrong_with_a_name_or_a_file_is_said(tmp_path):
    with pytest.raises(published.PublishedError, match="no published table 'fid': there are adm"):
        published.rows("fid")
    (tmp_path / "anonymous.csv").write_text("a\n1\n", "utf8")
    with pytest.raises(published.PublishedError, match="does not say where it comes from"):
        published.source("anonymous", tmp_path)
