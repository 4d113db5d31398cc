"""Reading a folder of records, of which some are none, and finding the record of a run."""

import os

import pytest

from src.reports.records import data_of, find_record, read_records
from tests.helpers.records import merge_record, save_records


def test_a_folder_is_read_as_it_is_and_each_file_that_is_no_record_is_named(tmp_path):
    (old,) = save_records(tmp_path, {key: value for key, value in merge_record().items() if key not in ("kind", "format")})
    assert old.kind == "merge"
    for name, text in {"cut": '{"kind": "mer', "list": "[]", "other": "{}", "odd": '{"question": 3}', "bytes": "\xff\x00",
                       "later": '{"question": {}, "format": 99}', "text": '{"question": {}, "format": "a"}'}.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_bytes(text.encode("latin1"))
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nothing")
    records, problems = read_records(tmp_path)
    assert [record.path for record in records] == [old.path]
    for name in ("cut", "list", "other", "odd", "bytes", "later", "text", "pipe", "folder", "gone"):
        (problem,) = (text for text in problems if f"{name}.json" in text)
        assert problem.startswith("left out: ") and "\n" not in problem
    assert any("later version" in problem for problem in problems) and read_records(tmp_path / "none") == ([], [])


@pytest.mark.parametrize(
    ("record", "data"),
    [
        ({"data": "unlabelled test"}, "unlabelled test"),
        ({"data": "none"}, "none"),
        ({}, "none"),
        ({"question": {"statistics": {"split": "val", "labels": "empirical"}}}, "labelled val"),  # an early record: it may be
        ({"question": {"statistics": {"split": "val", "labels": "empirical"}}, "uses_gradients": False}, "unlabelled val"),
        ({"question": {"statistics": {"split": "train", "labels": "true"}}, "uses_gradients": True}, "unlabelled train"),
    ],
)
def test_the_data_of_a_merge_are_told_of_early_records_too(record, data):
    assert data_of(record) == data


def test_a_run_is_done_if_its_record_is_newer_than_what_it_read(tmp_path):
    record = merge_record(config={"model": {"name": "m"}, "tasks": {"names": ["A"]}, "workers": 2})
    (saved,) = save_records(tmp_path, record)
    weights = tmp_path / "weights"
    weights.write_text("w")
    os.utime(weights, (1e9 - 5, 1e9 - 5))
    question, config = record["question"], {"model": {"name": "m"}, "tasks": {"names": ("A",)}, "workers": 8}

    def find(kind="merge", question=question, config=config, inputs=(weights,)):
        return find_record(tmp_path, kind, question, config, inputs)

    assert find().path == saved.path
    assert find(kind="negation") is None and find(question={**question, "tasks": ["A"]}) is None
    assert find(config={**config, "model": {"name": "n"}}) is None and find(inputs=[weights, tmp_path / "missing"]) is None
    os.utime(weights, (1e9 + 5, 1e9 + 5))
    assert find() is None
