import json
import re

import pytest

from src.experiments.record import half_width
from src.reports.page import page
from tests.reports.page.records import HOSTILE, analysis, comparisons, damaged, merge, written


def contents(html: str) -> dict:
    """What the page's script reads, the pool's values in their places."""
    data = json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])
    for row in data["rows"]:
        row.update({key: data["pool"][row[key]] for key in data["pooled"] if key in row})
        row["scores"] = {column: data["pool"][place] for column, place in row["scores"].items()}
    return data


def row_of(record: dict) -> dict:
    return contents(page("One", [record], []))["rows"][0]


def test_a_merge_is_shown_with_its_figures():
    record = written()["ties"]
    row, merged = row_of(record), record["test"]["Shapes"]["merged"]
    assert (row["method"], row["options"]) == ("ties + LiNeS", "k=20, agg=mean")
    assert row["means"]["merged"] == [round(record["means"]["merged"][key], 4) for key in ("mean", "half_width_95")]
    accuracies, halves = row["scores"]["merged"]
    variance = merged["accuracy"] * (1 - merged["accuracy"]) / merged["count"]
    assert (accuracies[0], halves[0]) == (merged["accuracy"], round(half_width([variance]), 4))
    assert row["coefficient"] == record["coefficient"] and row["bytes"] == record["bytes_stored"]
    point = record["validation"][2]
    mean = sum(point["accuracy"].values()) / len(point["accuracy"])
    assert (row["curve"][0][2], row["curve"][1][2]) == (point["coefficient"], round(mean, 4))
    assert row["depth"][0][0] == "outside" and len(row["depth"]) == 9


def test_scores_stand_in_the_order_of_the_groups_tasks():
    record = written()["ties"]
    turned = {**record, "test": dict(reversed(record["test"].items()))}
    data = contents(page("Two", [record, turned], []))
    assert data["rows"][0]["scores"] == data["rows"][1]["scores"]
    assert len(data["groups"]) == 1


def test_the_chosen_name_of_a_method_is_shown():
    assert row_of({**written()["ties"], "choices": {"method": "TIES_mine"}})["method"] == "TIES_mine + LiNeS"


def test_options_tell_records_of_one_method_apart():
    record = json.loads(json.dumps(written()["tall_mask"]))
    assert "options" not in row_of(record)
    record["question"]["method"]["base"] = {"_target_": "src.merging.average.Average"}
    record["question"] |= {"statistics": {"labels": "true", "examples": 1000}, "specify_lambda": 0.4, "precision": "bf16"}
    record["question"]["finetuning_mode"]["name"] = "linear"
    record["question"]["method"] |= {"task_index": 0, "examples": 32, "tsv_layers": ["out_proj", "o"]}
    options = (
        "task_index=0, tsv_layers=[out_proj,o], base=average, finetuning_mode=linear, statistics.labels=true, precision=bf16, "
        "specify_lambda=0.4"
    )
    assert row_of(record)["options"] == options


def test_every_kind_has_a_row_with_its_means():
    records = written()
    negation = {
        "kind": "negation",
        "tasks": {"Digits": {"test": {"target": {"pretrained": {"right": 1, "count": 4, "accuracy": 0.25}}}}},
        "means": {"target_pretrained": {"mean": 0.25, "half_width_95": 0.4}},
    }
    map_of_two = {"kind": "disentanglement", "shares": {"A": [[0.0]], "B": [[0.5]]}, "means": {"everywhere": {"mean": 0.5}}}
    data = contents(page("Kinds", [*records.values(), negation, map_of_two, {"kind": "new", "means": {"x": {"mean": 1}}}], []))
    rows = {row["kind"]: row for row in data["rows"]}
    assert set(rows) == {"merge", "single_task", "negation", "disentanglement", "new"}
    assert all(row["means"] for row in data["rows"])
    assert rows["negation"]["scores"] == {"target before": [[0.25], [0.4243]]}
    assert rows["single_task"]["scores"].keys() == {"validation", "test"}
    assert data["groups"][rows["disentanglement"]["group"]]["tasks"] == ["A", "B"]


@pytest.mark.parametrize(
    ("section", "key"), [("finetuned", "Shapes"), ("data", "Arrows"), ("heads", "Digits"), ("pretrained", None), (None, None)]
)
def test_another_lineage_is_another_group(section, key):
    record = written()["ties"]
    other = json.loads(json.dumps(record))
    if section is None:
        del other["lineage"]
    elif key is None:
        other["lineage"][section] = "another"
    else:
        other["lineage"][section][key] = "another"
    data = contents(page("Two", [record, other, record], []))
    assert [row["group"] for row in data["rows"]] in ([0, 1, 0], [1, 0, 1])


def test_other_tasks_are_another_group():
    record = written()["ties"]
    fewer = {**record, "test": dict(list(record["test"].items())[:4])}
    assert len(contents(page("Two", [record, fewer], []))["groups"]) == 2


def test_an_analysis_is_shown():
    record = {**written()["tall_mask"], "analysis": analysis(["A", "B"])}
    shown = row_of(record)["analysis"]
    assert shown["share"] == [0.1] * 3 and shown["overlap"][0] == [1, 0.25]
    assert shown["spectra"][0] == ["blocks.0.w", [[1, 2, 3], [1, round(2 / 3, 5), round(1 / 6, 5)]]]


def test_damaged_records_are_shown_with_what_they_have():
    record = {**written()["ties"], "analysis": analysis(["A", "B"])}
    records = damaged(record)
    assert len(records) > 500
    data = contents(page("Damaged", records, [None, {"ours": "x", "row": 3}]))
    whole = [row for row in data["rows"] if row.get("means", {}).get("merged") and row.get("curve")]
    assert len(data["rows"]) == len(records) and len(whole) > len(records) / 2


def test_text_of_strangers_ends_no_element():
    record = json.loads(json.dumps(written()["ties"]).replace("Shapes", "TASK"))
    record = {
        **record,
        "notes": [HOSTILE],
        "name": HOSTILE,
        "benchmark": HOSTILE,
        "question": {**record["question"], "model": HOSTILE},
    }
    record["test"][HOSTILE] = record["test"].pop("TASK")
    cell = dict.fromkeys(("table", "row", "column", "verdict", "reason", "source", "confidence"), HOSTILE)
    plain, html = page("T", [], []), page(HOSTILE, [record], [cell])
    for end in ("</script", "<script", "<img", "<!--", "<svg", "</title"):
        assert html.lower().count(end) == plain.lower().count(end)
    data = contents(html)
    shown = HOSTILE.replace("\ud800", "?")
    assert shown in data["groups"][0]["tasks"] and data["rows"][0]["notes"] == [shown]
    assert data["comparisons"][0]["reason"] == shown


def test_no_address_is_in_a_page():
    html = page("Report", [merge(0)], comparisons())
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html and "'unsafe-" not in html


def test_hundreds_of_records_stay_under_a_megabyte():
    html = page("Many", [merge(number) for number in range(500)], comparisons())
    assert len(html.encode()) < 1_000_000
    assert len(contents(html)["rows"]) == 500
