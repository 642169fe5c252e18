"""Published tables: numbers are numbers, and every table says where it comes from."""

import math

import pytest

from ppap_book import paper_tables
from ppap_book.errors import StudyError


def test_every_table_is_whole_and_names_its_source():
    assert {"ppap_table", "ddim_eta", "pndm", "adm_ablation", "noise_tweaks"} <= set(
        paper_tables.names()
    )
    for name in paper_tables.names():
        assert paper_tables.rows(name), name
        assert len(paper_tables.source(name)) > 20 and "#" not in paper_tables.source(name)


def test_cells_become_numbers_where_they_are_numbers():
    first = paper_tables.rows("ppap_table")[0]
    assert first["steps"] == 25 and isinstance(first["steps"], int)
    assert first["fid"] == 40.24 and first["trainable_percent"] is None
    assert first["guidance"] == "none"
    etas = {row["eta"] for row in paper_tables.rows("ddim_eta")}
    assert etas == {0.0, 0.2, 0.5, 1.0, "sigma_hat"}


def test_known_orderings():
    """Against slips in the copies: what the papers themselves say of these tables."""
    table = [r for r in paper_tables.rows("ppap_table") if r["architecture"] == "resnet50"]
    fid = {r["guidance"]: r["fid"] for r in table if r["sampler"] == "ddim"}
    assert fid["multi_experts_5"] < fid["ppap_10"] < fid["ppap_5"] < fid["naive_off_the_shelf"]
    wide = [r["fid"] for r in paper_tables.rows("noise_tweaks") if r["beta_end"] == 0.04]
    assert wide == [218.54]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1\n", "row 1 does not fit"), ("a,b\n1,2\n3,4,5\n", "row 2 does not fit")],
)
def test_a_torn_row_is_refused(text, message, tmp_path):
    (tmp_path / "torn.csv").write_text(text, "utf8")
    with pytest.raises(StudyError, match=message):
        paper_tables.rows("torn", tmp_path)


def test_what_is_wrong_with_a_name_or_a_file_is_said(tmp_path):
    with pytest.raises(StudyError, match="no published table 'fid': there are adm"):
        paper_tables.rows("fid")
    (tmp_path / "inside").mkdir()
    (tmp_path / "other.csv").write_text("# of another\na\n1\n", "utf8")
    for name in ("../other", str(tmp_path / "other"), "../..", "", "a\0b", None):
        for read in (paper_tables.rows, paper_tables.source):
            with pytest.raises(StudyError, match="no published table"):
                read(name, tmp_path / "inside")
    (tmp_path / "anonymous.csv").write_text("a\n1\n", "utf8")
    with pytest.raises(StudyError, match="does not say where it comes from"):
        paper_tables.source("anonymous", tmp_path)


@pytest.mark.parametrize(
    ("a", "b", "correlation"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [10, 30, 20], 0.5),
        ([1, 2, 3], [30, 20, 10], -1),
        ([0.4, 0.1, 7.0, 0.2], [5, 1, 9, 2], 1),
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ([1, 1, 2], [4, 4, 9], 1),
        ([1, 2, 3], [7, 7, 7], math.nan),
    ],
)
def test_a_rank_correlation_is_spearmans(a, b, correlation):
    found = paper_tables.agreement(dict(enumerate(a)), dict(enumerate(b)))
    assert found.correlation == pytest.approx(correlation, nan_ok=True)
    assert paper_tables.agreement({0: 1, 1: 2}, {0: 1, 1: 2}) is None
