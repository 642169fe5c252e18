import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppap_book import ledger
from ppap_book.errors import StudyError
from ppap_book.studies import samplers
from ppap_lib import __version__
from ppap_lib.files import atomic

PARAMS = {"steps": 25, "scale": 7.5, "betas": (0.1, 0.2), "form": None}


def record(into, results, params=PARAMS, study="guidance"):
    return ledger.record(study, params, results, seconds=1.234, into=into)


def test_a_row_comes_back_with_what_made_it(tmp_path):
    path = record(tmp_path, {"kid": 0.25, "by_t": [1, 2]})
    (row,) = ledger.rows("guidance", tmp_path)
    assert row["params"] == {**PARAMS, "betas": [0.1, 0.2]}
    assert row["results"] == {"kid": 0.25, "by_t": [1, 2]}
    assert row["seconds"] == 1.2 and row["device"].startswith("cpu")
    assert row["versions"]["ppap_lib"] == __version__
    assert row["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert row["versions"]["python"] == sys.version.split()[0]
    assert ledger.find("guidance", PARAMS, tmp_path) == row
    assert ledger.find("guidance", {**PARAMS, "steps": 26}, tmp_path) is None
    assert path == tmp_path / "guidance" / f"{ledger.digest(PARAMS)}.json"
    assert list(path.parent.iterdir()) == [path]  # no partial file is left


def test_a_file_has_a_line_for_each_number_but_one_for_each_list(tmp_path):
    results = {"kid": 0.5, "by": {"t": [{"b": 1, "a": [2.5, None]}], "none": {}}}
    path = record(tmp_path, results | {"seen": [7, 1] * 500})
    text = path.read_text()
    assert json.loads(text)["results"] == results | {"seen": [7, 1] * 500}
    assert '  "by": {\n   "none": {},\n   "t": [{"a":[2.5,null],"b":1}]\n  },\n' in text
    assert f'  "seen": [{",".join("71" * 500)}]\n }},\n' in text


def test_long_lists_of_zeros_and_ones_and_of_decimals_are_packed_and_lists_again(tmp_path):
    results = {"precise": [0, 1] * 500, "few": [0, 1], "by": {"t": [1] * 20}}
    results |= {"witness": [0.25123, -0.06252, 3.0, 0.043329] * 9, "none": [0.0, 1.0] * 10}
    results |= {"truth": [True, False] * 10, "counts": [0, 1, 2] * 10, "mixed": [0, 0.5] * 10}
    path = record(tmp_path, results)
    (row,) = ledger.rows("guidance", tmp_path)
    assert repr(row["results"]) == repr(dict(sorted(results.items())))
    text = path.read_text()
    assert f'  "precise": {{"bits":"1000:{"5" * 250}"}},\n' in text
    assert '  "witness": {"e-6":[251230,-62520,3000000,43329,' in text
    assert text.count("bits") == 2 and text.count("e-") == 2
    assert record(tmp_path, results) == path
    with pytest.raises(StudyError, match="precise.500 was 0, is 1"):
        record(tmp_path, results | {"precise": [0, 1] * 250 + [1, 0] * 250})
    listed = {name: row[name] for name in row} | {"results": results}
    path.write_text(json.dumps(listed))  # as files were before
    assert ledger.rows("guidance", tmp_path)[0]["results"] == row["results"]


def test_a_list_of_few_steps_is_packed_as_their_numbers(tmp_path):
    shares = [0.255 - 0.9975 * k for k in (0, 0, 1, 0, -3, 0, 0, 11)] * 4
    path = record(tmp_path, {"recalled": [round(share, 4) for share in shares]})
    assert '{"2550+9975e-4":[0,0,-1,0,3,0,0,-11,0,0,' in path.read_text()
    (row,) = ledger.rows("guidance", tmp_path)
    assert row["results"]["recalled"] == [round(share, 4) for share in shares]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=16, max_size=20))
def test_packing_keeps_every_number(values):
    packed = json.loads(ledger._text({"a": values}), object_hook=ledger._unpacked)["a"]
    assert all(type(value) is float for value in packed)
    assert packed == values


@pytest.mark.parametrize("packed", [{"bits": 8}, {"e-6": [1]}, {"-5+3e-1": [1]}])
def test_what_reads_like_a_packed_list_is_refused(tmp_path, packed):
    with pytest.raises(StudyError, match="results.by = .* would be read back as a list"):
        record(tmp_path, {"by": packed})


@given(st.lists(st.integers(0, 1), min_size=16, max_size=70))
def test_packing_keeps_every_bit(values):
    assert json.loads(ledger._text({"a": values}), object_hook=ledger._unpacked)["a"] == values


@pytest.mark.parametrize(
    "values, kept, wrong",
    [
        ([1] * 20, "20:fffff", "20:ffffx"),
        ([1] * 20, "20:fffff", "19:fffff"),
        ([1] * 20, "20:fffff", "fffff"),
        ([0.25] * 20, "[25,", '["x",'),
    ],
)
def test_a_packed_list_that_is_none_is_found_out(tmp_path, values, kept, wrong):
    path = record(tmp_path, {"precise": values})
    assert kept in path.read_text()
    path.write_text(path.read_text().replace(kept, wrong))
    with pytest.raises(StudyError, match="is not a ledger file"):
        ledger.rows("guidance", tmp_path)


def test_results_have_nine_digits(tmp_path):
    record(tmp_path, {"kid": 1 / 3, "by": {"t": [2 / 3]}}, {"scale": 1 / 3})
    (row,) = ledger.rows("guidance", tmp_path)
    assert row["results"] == {"kid": 0.333333333, "by": {"t": [0.666666667]}}
    assert row["params"] == {"scale": 1 / 3}  # they decide the file's name


def test_numbers_of_tensors_and_arrays_are_recorded_as_numbers(tmp_path):
    values = {"a": torch.tensor(2.5), "b": np.float64(1.5), "c": np.arange(3), "d": np.bool_(True)}
    record(tmp_path, values)
    (row,) = ledger.rows("guidance", tmp_path)
    assert row["results"] == {"a": 2.5, "b": 1.5, "c": [0, 1, 2], "d": True}


def test_the_same_result_again_leaves_the_file_alone(tmp_path):
    path = record(tmp_path, {"kid": 0.25})
    before = path.read_bytes()
    for kid in (0.25, 0.25 * (1 + 9e-4), 0.25 * (1 - 9e-4)):  # by another machine
        assert record(tmp_path, {"kid": kid}) == path
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"fd64_real": 13.15617}, {"fd64_real": 13.15622}),
        ({"kid_real": 0.0}, {"kid_real": 1e-17}),
        ({"kid_real": 3.2e-5}, {"kid_real": -2e-6 + 3.2e-5}),
        ({"trend": {"inside": [0.04, 0.02]}}, {"trend": {"inside": [0.04003, 0.02001]}}),
        ({"gmac": 9.5}, {"gmac": 9.50001}),
        ({"evaluations": 50}, {"evaluations": 50.0}),
    ],
)
def test_real_numbers_agree_that_differ_by_rounding(tmp_path, old, new):
    path = record(tmp_path, old)
    before = path.read_bytes()
    assert record(tmp_path, new) == path and path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({"kid": 0.25}, {"kid": 0.26}, "kid was 0.25, is 0.26"),
        ({"kid": 0.25}, {"kid": 0.25 * (1 + 2e-3)}, "kid was 0.25"),
        ({"kid": 0.0}, {"kid": 2e-5}, "kid was 0.0"),
        ({"n_seen": 100_000}, {"n_seen": 100_001}, "n_seen was 100000, is 100001"),
        ({"right": [1, 0] * 500}, {"right": [1, 0] * 499 + [0, 0]}, "right.998 was 1, is 0"),
        ({"favourite": "coat"}, {"favourite": "shirt"}, "favourite was 'coat', is 'shirt'"),
        ({"kid": 0.25}, {"fd": 0.25}, "fd only in the new one; kid only in the old one"),
        ({"kid": 0.25}, {"kid": None}, "kid was 0.25, is None"),
        ({"ok": 1}, {"ok": True}, "ok was 1, is True"),
        ({"by_t": [1, 2]}, {"by_t": [1, 3]}, "by_t.1 was 2, is 3"),
        ({"by_t": [1, 2]}, {"by_t": [1]}, r"by_t was \[1, 2\], is \[1\]"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b was 1, is 2"),
    ],
)
def test_another_result_of_the_same_parameters_is_refused(tmp_path, old, new, difference):
    path = record(tmp_path, old)
    before = path.read_bytes()
    with pytest.raises(StudyError, match=f"{difference}.*delete it to accept the new one"):
        record(tmp_path, new)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"kid": float("nan")}, "results.kid is nan: only finite numbers"),
        ({"kid": torch.tensor([1.0, float("inf")])}, r"results.kid\[1\] is inf"),
        ({"kid": {1: 2}}, "results.kid has the key 1: keys are strings"),
        ({"kid": object()}, "results.kid is a object, which JSON cannot hold"),
    ],
)
def test_what_cannot_be_recorded_leaves_no_file(tmp_path, results, message):
    with pytest.raises(StudyError, match=message):
        record(tmp_path, results)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("study", ["", "Guidance", "a-b", "../up", "a b"])
def test_a_study_has_a_name_that_a_file_can_have(tmp_path, study):
    with pytest.raises(StudyError, match="a study is named with"):
        record(tmp_path, {}, study=study)


def test_a_killed_run_leaves_no_result(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, {"kid": 1})
    assert ledger.rows("guidance", tmp_path) == []


def test_an_edited_file_is_found_out(tmp_path):
    path = record(tmp_path, {"kid": 1})
    row = json.loads(path.read_text())
    row["params"]["steps"] = 26
    path.write_text(json.dumps(row))
    with pytest.raises(StudyError, match="edited or renamed"):
        ledger.rows("guidance", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"study": "guidance"}'])
def test_a_file_that_is_no_row_is_named(tmp_path, text):
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance" / "0.json").write_text(text)
    with pytest.raises(StudyError, match="guidance/0.json is not a ledger file"):
        ledger.rows("guidance", tmp_path)


def test_the_table_sets_parameters_and_results_side_by_side(tmp_path):
    for steps in (10, 25):
        record(tmp_path, {"kid": 1 / steps}, {"steps": steps})
    record(tmp_path, {"kid": 9}, {"steps": 10}, study="other")
    entries = ledger.rows("guidance", tmp_path)
    flat = sorted(ledger.table(entries), key=lambda row: row["steps"])
    assert flat == [
        {"steps": 10, "kid": 0.1, "seconds": 1.2},
        {"steps": 25, "kid": 0.04, "seconds": 1.2},
    ]


def test_a_name_that_is_both_parameter_and_result_is_refused(tmp_path):
    record(tmp_path, {"steps": 3})
    with pytest.raises(StudyError, match="steps is both parameter and result"):
        ledger.table(ledger.rows("guidance", tmp_path))


def test_a_study_whose_name_begins_another_is_not_mixed_in(tmp_path):
    record(tmp_path, {"kid": 1}, study="solver")
    record(tmp_path, {"kid": 2}, study="solver_orders")
    assert [row["results"]["kid"] for row in ledger.rows("solver", tmp_path)] == [1]
    assert ledger.studies(tmp_path) == ["solver", "solver_orders"]


def test_a_row_is_parsed_once_and_what_is_filed_meanwhile_is_seen(tmp_path, monkeypatch):
    parsed = []
    parse = json.loads

    def counted(text, **options):
        parsed.append(text)
        return parse(text, **options)

    monkeypatch.setattr(ledger.json, "loads", counted)
    path = record(tmp_path, {"kid": 1})
    for _ in range(3):
        (row,) = ledger.rows("guidance", tmp_path)
        assert ledger.find("guidance", PARAMS, tmp_path) is row
    assert len(parsed) == 1
    record(tmp_path, {"kid": 2}, PARAMS | {"steps": 26})
    assert {row["results"]["kid"] for row in ledger.rows("guidance", tmp_path)} == {1, 2}
    path.unlink()
    record(tmp_path, {"kid": 3})
    assert ledger.find("guidance", PARAMS, tmp_path)["results"] == {"kid": 3}


def test_the_folder_is_the_books_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("PPAP_RESULTS", raising=False)
    assert ledger.folder().parts[-2:] == ("book", "results")
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path))
    assert ledger.folder() == tmp_path


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=5), plain | st.lists(plain, max_size=3), max_size=4))
def test_the_digest_does_not_depend_on_order_or_on_list_or_tuple(params):
    def as_tuples(value):
        return tuple(value) if isinstance(value, list) else value

    turned = {key: as_tuples(params[key]) for key in reversed(list(params))}
    assert ledger.digest(params) == ledger.digest(turned)
    assert ledger.digest(params) == ledger.digest(json.loads(json.dumps(params)))


@given(st.integers(), st.integers())
def test_other_parameters_have_another_digest(a, b):
    assert (ledger.digest({"a": a}) == ledger.digest({"a": b})) == (a == b)


def test_what_another_process_filed_meanwhile_is_never_replaced(tmp_path, monkeypatch):
    """It may do so at any moment until the file is there."""
    write = atomic.write_text

    def slower(path, text, **options):
        write(path, text.replace("0.5", "0.7"), **options)
        write(path, text, **options)

    monkeypatch.setattr(ledger, "write_text", slower)
    with pytest.raises(StudyError, match="kid was 0.7, is 0.5"):
        record(tmp_path, {"kid": 0.5})
    assert ledger.rows("guidance", tmp_path)[0]["results"] == {"kid": 0.7}
    assert len(list(tmp_path.rglob("*.*"))) == 1


def test_what_an_image_contributes_agrees_to_a_share_of_the_largest(tmp_path):
    """One image moves further than their mean, and what it contributes is kept to few digits."""
    witness, params = [0.25123, 0.0043329, -0.062521] * 9, PARAMS | {"n": 27}
    path = record(tmp_path, {"witness": witness}, params)
    assert record(tmp_path, {"witness": [0.258, 0.0113, *witness[2:]]}, params) == path
    with pytest.raises(StudyError, match="witness.1 was 0.0043329, is 0.0129"):
        record(tmp_path, {"witness": [witness[0], 0.0129, *witness[2:]]}, params)


def test_of_lists_that_are_not_of_images_every_entry_is_compared_by_itself(tmp_path):
    """Readings by timestep may span decades."""
    by_t, params = [1000.0, *[0.02] * 24], PARAMS | {"n": 40}
    path = record(tmp_path, {"share": by_t}, params)
    assert record(tmp_path, {"share": [1000.9, *by_t[1:]]}, params) == path
    with pytest.raises(StudyError, match=r"share.24 was 0.02, is 0.0201"):
        record(tmp_path, {"share": [*by_t[:-1], 0.0201]}, params)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The book's own ledger, and which commit's code runs; empty, and in another folder."""
    made_by = ["abc"]
    monkeypatch.delenv("PPAP_RESULTS", raising=False)
    monkeypatch.setattr(ledger, "_BOOK", tmp_path)
    monkeypatch.setattr(ledger, "commit", lambda: made_by[-1])
    return made_by


@pytest.mark.parametrize("commit", ["abc", None])
def test_committed_code_files_rows_in_the_books_ledger(book, commit):
    book.append(commit)
    assert record(None, {"kid": 1}).is_file()


def test_code_that_was_not_committed_files_no_row_in_the_books_ledger(book, tmp_path, monkeypatch):
    book.append("0123456789ab+")
    told = r"differs from commit 01234567, .*Commit what changed .* or set PPAP_RESULTS to a folder"
    with pytest.raises(StudyError, match=told):
        record(None, {"kid": 1})
    assert not list(tmp_path.rglob("*.json"))
    assert record(tmp_path / "own", {"kid": 1}).is_file()
    monkeypatch.setenv("PPAP_RESULTS", str(tmp_path / "mine"))
    assert record(None, {"kid": 1}).is_file()


def test_nothing_is_measured_whose_row_the_books_ledger_would_refuse(book):
    def runs():
        raise AssertionError("a training, which takes hours")
        yield

    book.append("0123456789ab+")
    with pytest.raises(StudyError, match="Commit what changed"):
        samplers.STUDY.record(runs())


def test_a_row_is_named_by_its_study_and_a_beginning_of_its_digest(tmp_path):
    paths = [record(tmp_path, {"kid": k}, {"steps": k}) for k in (10, 25)]
    assert [path.stem[:2] for path in paths] == ["46", "49"]
    record(tmp_path, {"kid": 9}, {"steps": 10}, study="other")
    for path in paths:
        row = json.loads(path.read_text())
        for digits in (path.stem, path.stem[:2], path.name):
            assert ledger.named(f"guidance/{digits}", tmp_path) == row
        assert ledger.named(str(path), tmp_path) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("guidance/4", "2 rows begin with 'guidance/4': give more or other digits, such as 46ea"),
        ("guidance/x", "no row begins with 'guidance/x': give more or other digits, such as 46ea"),
        ("gradients/46", "no rows of a study 'gradients': a row is named as study/digest, of gui"),
        ("46", "no rows of a study '46'"),
    ],
)
def test_a_name_that_means_no_row_or_several_says_which_there_are(tmp_path, name, message):
    for steps in (10, 25):
        record(tmp_path, {}, {"steps": steps})
    with pytest.raises(StudyError, match=message):
        ledger.named(name, tmp_path)


def test_without_hard_links_a_result_is_filed_once_too(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError("no links on this file system")

    monkeypatch.setattr(atomic.os, "link", unsupported)
    path = record(tmp_path, {"kid": 0.5})
    assert record(tmp_path, {"kid": 0.5}) == path
    with pytest.raises(StudyError, match="kid was 0.5, is 0.7"):
        record(tmp_path, {"kid": 0.7})
    assert list(path.parent.iterdir()) == [path]
