"""JSON records: stable bytes, nothing half-written, nothing that a diff cannot compare."""

from pathlib import Path

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


def test_two_processes_may_write_the_same_file(tmp_path, monkeypatch):
    """Queued experiments share the file with a stage's seconds: no partial file is shared."""
    names = []
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, to: names.append(self.name) or replace(self, to)
    )
    for pid in (11, 12):
        monkeypatch.setattr(io.os, "getpid", lambda pid=pid: pid)
        io.write_json(tmp_path / "a.json", {"pid": pid})
    assert names == ["a.json.11.partial", "a.json.12.partial"]
    assert io.read_json(tmp_path / "a.json") == {"pid": 12}
