"""JSON records: stable bytes, nothing half-written, nothing that a diff cannot compare."""

import pytest

from pipeline import io
from pipeline.errors import UserError


def test_numbers_keep_six_significant_digits_and_keys_are_sorted(tmp_path):
    content = {"b": 1 / 3, "a": {"d": [123456.789], "c": 12345678}, "e": None, "f": True}
    io.write_json(tmp_path / "x/y.json", content)
    assert (tmp_path / "x/y.json").read_text() == (
        '{\n  "a": {\n    "c": 12345678,\n    "d": [\n      123457.0\n    ]\n  },\n'
        '  "b": 0.333333,\n  "e": null,\n  "f": true\n}\n'
    )


def test_what_is_written_is_read(tmp_path):
    content = {"psnr": 24.5, "name": "日本", "nested": {"n": 3}}
    io.write_json(tmp_path / "a.json", content)
    assert io.read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_and_the_old_file_stays(tmp_path, value):
    io.write_json(tmp_path / "a.json", {"a": 1.0})
    with pytest.raises(AssertionError, match=r"a\.json"):
        io.write_json(tmp_path / "a.json", {"a": {"b": [value]}})
    assert io.read_json(tmp_path / "a.json") == {"a": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match="dvc repro"):
        io.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [io.read_json, lambda path: io.read_table(path, io.CLIPS)])
@pytest.mark.parametrize("data", [b"", b"PAR1", b"\xff\xfe", b'{"a": '])
def test_a_damaged_file_says_what_makes_it_again(tmp_path, read, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UserError, match=r"/a is no readable .*; `dvc repro` makes it again$"):
        read(tmp_path / "a")


def test_flatten_joins_keys_and_leaves_lists():
    nested = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": "x", "f": {}}
    assert io.flatten(nested) == {"a.b.c": 1, "a.d": [1, 2], "e": "x"}


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Queued experiments share the file with a stage's seconds: the last one wins."""
    with io.atomic(tmp_path / "a.json") as outer:
        io.write_json(tmp_path / "a.json", {"writer": "inner"})
        outer.write_text('{"writer": "outer"}')
    assert io.read_json(tmp_path / "a.json") == {"writer": "outer"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_nothing_and_the_old_file(tmp_path):
    io.write_json(tmp_path / "a.json", {"a": 1})
    for path in (tmp_path / "a.json", tmp_path / "new/deep/a.json"):
        with pytest.raises(RuntimeError), io.atomic(path) as partial:
            partial.write_text("half")
            raise RuntimeError
    assert io.read_json(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_table_written_row_by_row_has_the_bytes_of_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "ROWS_READ", 2)
    rows = [
        {"clip_id": f"c{k}", "flipped": k % 2 == 0, "reversed": False, "n_frames": k,
         "tokens": list(range(k)), "features": bytes(k)}
        for k in range(5)
    ]  # fmt: skip
    for group, same in ((io.ROW_GROUP, True), (2, False)):
        monkeypatch.setattr(io, "ROW_GROUP", group)
        with io.table_writer(io.TOKENS, tmp_path / "parts") as add:
            for row in rows:
                add(row)
        io.write_table(rows, io.TOKENS, tmp_path / "whole")
        assert ((tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()) == same
        read = [row._asdict() for row in io.read_rows(tmp_path / "parts", io.TOKENS)]
        assert [row | {"tokens": row["tokens"].tolist()} for row in read] == [
            {"Index": k % 2} | row for k, row in enumerate(rows)
        ]
    with pytest.raises(UserError, match="has the columns"):
        next(io.read_rows(tmp_path / "parts", io.CLIPS))
    with pytest.raises(ZeroDivisionError), io.table_writer(io.TOKENS, tmp_path / "half") as add:
        add(rows[0])
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
