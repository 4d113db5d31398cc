"""Tables of the documentation are what the records and the configuration say."""

import runpy

from tests.helpers.processes import ROOT

TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


def test_no_table_is_stale():
    for page in TABLES["pages"]():
        text = page.read_text()
        assert TABLES["with_tables"](text) == text, f"python docs/tables.py writes {page.name} anew"


def test_a_changed_number_is_found():
    text = (ROOT / "docs" / "demo.md").read_text()
    table = next(match[0] for match in TABLES["BLOCK"].finditer(text) if "| 61.8 ± 1.0 |" in match[0])
    assert TABLES["with_tables"](f"before\n{table.replace('| 61.8 ', '| 71.8 ')}\nafter") == f"before\n{table}\nafter"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_records_of_the_documentation_hold_no_path_of_a_machine():
    paths = sorted((ROOT / "docs" / "records").glob("*.json"))
    assert paths
    for path in paths:
        assert '": "/' not in path.read_text() and '"/' not in path.read_text(), path.name
