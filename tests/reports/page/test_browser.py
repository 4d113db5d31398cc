"""The page in a browser: its tables are filled, its controls work, and nothing is said on the console."""

import re
import shutil
import subprocess
from statistics import fmean

import pytest

import src.reports.page
from tests.reports.page.records import HOSTILE, analysis, comparisons, damaged, merge, written

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium to open the page in")


@pytest.fixture
def browse(tmp_path, monkeypatch):
    """Return a function that opens a page, runs a script in it last, and returns what `said(...)` was called with."""

    def opened(records: list, cells: list, script: str = "") -> list[str]:
        (tmp_path / "last.js").write_text(
            "const said = (value) => document.body.append(element('samp', {}, String(value)));\n"
            "const all = (selector) => [...document.querySelectorAll(selector)];\n"
            f"{script}\nsaid('end');\n"
        )
        monkeypatch.setattr(src.reports.page, "SCRIPTS", (*SCRIPTS, str(tmp_path / "last")))
        path = tmp_path / "page.html"
        path.write_text(src.reports.page.page("A report", records, cells))
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                   f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", path.as_uri()]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert not [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
        values = re.findall("<samp>(.*?)</samp>", run.stdout, re.DOTALL)
        assert values and values[-1] == "end", run.stdout[-2000:]
        return values[:-1]

    return opened


SCRIPTS = src.reports.page.SCRIPTS


def test_tables_and_charts_are_filled(browse):
    records = written()
    records["tall_mask"]["analysis"] = analysis(["A", "B"])
    counts = browse(
        list(records.values()),
        comparisons(),
        """
        for (const id of ["results", "tasks", "charts", "others", "published"]) said(all(`#${id}`).length);
        said(all("nav a").length);
        said(all(".opener").length);
        said(all(".heat").length > 30);
        requestAnimationFrame(() => setTimeout(() => {
          said(all("figure h3").map((heading) => heading.textContent));
          said(all("figure").every((figure) => figure.querySelectorAll(".series").length > 0));
          all(".series")[0].dispatchEvent(new Event("focus"));
          said(all("output")[0].textContent);
          said(document.body.scrollWidth <= window.innerWidth);
          said("end");
        }, 100));
        """,
    )
    best = max(fmean(point["accuracy"].values()) for point in records["tall_mask"]["validation"])
    assert counts[:8] == ["1", "1", "1", "1", "1", "5", "4", "true"]
    figures = ("Validation accuracy against the coefficient", "Accuracy against stored bytes", "Accuracy against time",
               "Scaling by depth (LiNeS)", "Singular values")  # fmt: skip
    assert counts[9:] == [",".join(figures), "true", f"tall_mask: best {100 * best:.1f} % at 0.4", "true"]


def test_filters_sorting_and_details(browse):
    records = [*written().values(), {**merge(1, tasks=8), "benchmark": "other"}]
    values = browse(
        records,
        comparisons(),
        """
        const results = () => all("#results ~ .scroll")[0].querySelectorAll(".opener");
        const names = () => [...results()].map((button) => button.textContent).join();
        const box = (label) => all("fieldset label").find((each) => each.textContent === label).querySelector("input");
        said(names());
        box("one model, no task identity").click();
        said(names());
        box("no validation labels").click();
        said(names());
        said(document.getElementById("counts").textContent);
        box("one model, no task identity").click();
        box("no validation labels").click();
        const heading = all("#results ~ .scroll")[0].querySelectorAll("thead button")[0];
        heading.click();
        said(names());
        said(heading.closest("th").getAttribute("aria-sort"));
        results()[0].click();
        said(`${all(".opened").length} ${all(".opened")[0].textContent.includes("Uses validation labels")}`);
        results()[0].click();
        said(all(".opened").length);
        const verdicts = document.getElementById("verdicts");
        verdicts.value = "differs";
        verdicts.dispatchEvent(new Event("change"));
        said(all("#published ~ div tbody tr:not(.group)").length + all("#published ~ div tbody")[0].textContent);
        """,
    )
    assert values[:3] == ["tall_mask,ties + LiNeS,ties,sum", "ties + LiNeS,ties,sum", "sum"]
    assert values[3] == "2 of 5 records"  # and the fine-tuned models on their own, which are no merge
    assert values[4:6] == ["tall_mask,ties + LiNeS,ties,sum", "ascending"]
    assert values[6:8] == ["1 true", "0"]
    assert values[8].startswith("1") and "three intervals apart" in values[8]


def test_text_of_strangers_runs_nothing(browse):
    record = written()["ties"]
    record |= {"notes": [HOSTILE], "name": HOSTILE, "benchmark": HOSTILE}
    record["test"][HOSTILE] = record["test"].pop("Shapes")
    cell = dict.fromkeys(("table", "row", "column", "verdict", "reason", "source", "confidence"), HOSTILE)
    script = 'all(".opener")[0].click(); said(all("img").length + document.title + all(".opened li").at(-1).textContent);'
    assert browse([record], [cell], script)[0].startswith("0A report&lt;/script&gt;")


def test_damaged_records_are_drawn(browse):
    records = damaged({**written()["ties"], "analysis": analysis(["A", "B"])})[::12]
    assert browse(records, [None, {}], 'said(all(".opener").length)') == [str(len(records))]


def test_lineages_under_one_name_are_told_apart(browse):
    record = written()["ties"]
    other = {**record, "lineage": {**record["lineage"], "pretrained": "another"}}
    script = (
        'said(all(".group .pinned").map((each) => each.firstChild.textContent)); said(all("#results ~ .note")[1].textContent);'
    )
    headings, note = browse([record, other], [], script)
    assert len(set(re.findall("demo, lineage ([0-9a-f]{8}): ViT-demo, 8 tasks", headings))) == 2
    assert "demo" in note and "do not compare" in note


def test_a_bare_record_has_a_row_and_no_empty_figure(browse):
    bare = {"test": {"Digits": {"merged": {"accuracy": 0.5}}}}
    assert browse([bare], [], 'said(all(".opener").length); said(all("figure").length)') == ["1", "0"]
