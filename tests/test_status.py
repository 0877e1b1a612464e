"""The status page: what it says of chapters, records and what is not run, and that it
says the same of the same files."""

import json
import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml

from lpa_core.notebook import begin
from lpa_core.results import NOT_RUN, read_measurements, read_records, table1_beside
from tools import readme, status
from tools.status import Chapter, Sources, fill, read_chapter

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "status.md"
OPENED = (
    "profile = 'smoke', seed = 0\ncomputing on cpu, 2 threads\n"
    "A, B processor, python 3.11.7, torch 2.15.0+cpu, lpa_core 0.1.0\n"
)
RAN = {
    "start_time": "2026-01-02T03:04:05.678901+00:00",
    "end_time": "2026-01-02T03:04:17.678901+00:00",
    "duration": 12.4,
    "exception": None,
}


def a_notebook(title: str, said: str = "", **papermill) -> dict:
    output = {"output_type": "stream", "name": "stdout", "text": said}
    code = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [output]}
    head = {"cell_type": "markdown", "source": [f"# {title}\n", "text"], "metadata": {}}
    return {"cells": [head, code], "metadata": {"papermill": papermill}}


def put(path: Path, found: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def sources(tmp_path) -> Sources:
    """Three chapters, of which one ran, one failed and one did not run; the last comes
    first in the book."""
    for number, title in enumerate(("One", "Two", "Three"), start=1):
        put(tmp_path / f"notebooks/{number:02}.ipynb", a_notebook(title))
    files = ("notebooks/03", "notebooks/01", "book/page", "notebooks/02")
    contents = [{"caption": "All", "chapters": [{"file": file} for file in files]}]
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"parts": contents}))
    put(tmp_path / "executed/01.ipynb", a_notebook("One", OPENED, **RAN))
    put(tmp_path / "executed/02.ipynb", a_notebook("Two", **RAN | {"exception": True}))
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    (benchmarks / "01.tsv").write_text("s\th:m:s\tmax_rss\n12.1\t0:00:12\t345.67\n")
    (benchmarks / "02.tsv").write_text("s\th:m:s\tmax_rss\n12.1\t0:00:12\t-\n")
    return Sources(
        executed=tmp_path / "executed",
        notebooks=tmp_path / "notebooks",
        benchmarks=benchmarks,
        records=ROOT / "results" / "records.jsonl",
        measurements=ROOT / "results" / "measurements.jsonl",
        weights=ROOT / "weights",
    )


def rows(page: str, heading: str) -> list[list[str]]:
    """The first table below a heading, without its head."""
    part = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    end = next((n for n, line in enumerate(part.splitlines()) if line == ""), None)
    assert end is not None
    first = []
    for line in lines[2:]:
        if re.fullmatch(r"\|(---\|)+", line):
            first.pop()  # the head of the next table
            break
        first.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return first


def test_chapters_say_whether_when_and_how_long(sources):
    page = status.tables(sources)
    assert "1 of 3 chapters ran to completion." in page
    assert rows(f"\n{page}", "Chapters") == [
        ["1", "Three", NOT_RUN, "", "", "", ""],
        ["2", "{doc}`../notebooks/01`", "ran", "smoke", "2026-01-02 03:04", "12", "346"],
        ["3", "{doc}`../notebooks/02`", "failed", "", "2026-01-02 03:04", "12", ""],
    ]
    assert "| cpu | 2 | A, B processor | 3.11.7 | 2.15.0+cpu | 0.1.0 | 2 |" in page


def test_what_begin_prints_is_what_the_page_reads(capsys):
    with plt.rc_context():
        begin({"__annotations__": {"profile": str}, "profile": "laptop", "In": []})
    found = status.OPENING.search(capsys.readouterr().out)
    assert found["python"].startswith("3.")
    assert int(found["threads"]) > 0
    assert set(found.groupdict()) == {
        "place", "threads", "device", "python", "torch", "lpa_core",
    }  # fmt: skip


def test_a_chapter_that_was_broken_off_did_not_run(tmp_path):
    left = RAN | {"end_time": None, "duration": None}
    executed = put(tmp_path / "a.ipynb", a_notebook("A", **left))
    chapter = read_chapter(executed, executed)
    assert chapter == Chapter("a", "A", "interrupted", "", "2026-01-02 03:04", None, None)


def test_what_is_no_notebook_is_named(tmp_path):
    half = tmp_path / "half.ipynb"
    half.write_text('{"cells": [')
    with pytest.raises(ValueError, match=r"half\.ipynb is not a complete notebook"):
        read_chapter(half, half)


def test_records_stand_with_seeds_device_and_days():
    record = read_records()[0]
    runs = [
        record.model_copy(
            update={
                "id": f"{seed:016x}",
                "spec": record.spec.model_copy(update={"seed": seed}),
                "metrics": {**record.metrics, "test_error": error},
                "started": record.started + timedelta(days=seed),
                "threads": 2 + seed,
            }
        )
        for seed, error in ((0, 8.0), (2, 9.0), (1, 10.0))
    ]
    page = status.record_part(runs)
    (row,) = rows(f"\n{page}", "Records")
    assert row[:5] == ["vgg-att2-concat-pc", "cifar10", "9.00 ± 1.00", "3", "0, 1, 2"]
    assert row[-2] == "2, 3, 4"
    first, last = re.findall(r"\d{4}-\d\d-\d\d", row[-1])
    ends = (record.started, record.started + timedelta(days=2))
    assert [first, last] == [f"{day:%Y-%m-%d}" for day in ends]


def test_what_is_not_run_is_what_the_tables_say(sources):
    page = f"\n{status.tables(sources)}"
    found = {(row[0], row[1]): row for row in rows(page, "What was not run")}
    beside = table1_beside(read_records(), "cifar10")
    missing = beside[beside.measured == NOT_RUN].network.tolist()
    row = found["Table 1", "cifar10"]
    assert row[5] == (", ".join(missing) or "none")
    assert int(row[2]) == beside.network.nunique() == int(row[3]) + len(missing)
    nothing = {(r[0], r[1]): r for r in rows(f"\n{status.missing_part([], [])}",
                                             "What was not run")}  # fmt: skip
    assert {row[3] for row in nothing.values()} == {"0"}
    assert "rn164-att2" in nothing["Table 3", "scene67, trained on cifar100"][5]


def test_only_full_width_by_the_papers_recipe_counts_as_the_paper():
    record = read_records()[0]
    assert record.spec.network == "vgg-att2-concat-pc"

    def as_paper(epochs=300, **changes) -> str:
        spec = record.spec.model_copy(update=changes)
        run = record.model_copy(update={"spec": spec, "epochs": epochs})
        page = status.missing_part([run], [])
        found = {(r[0], r[1]): r for r in rows(f"\n{page}", "What was not run")}
        return found["Table 1", "cifar10"][4]

    assert as_paper() == "0"
    assert as_paper(width=1.0) == "0"
    assert as_paper(width=1.0, recipe="paper") == "1"
    assert as_paper(width=1.0, recipe="paper", overrides={"lr": 0.1}) == "0"
    assert as_paper(width=1.0, recipe="paper", epochs=60) == "0"


def test_a_damaged_record_is_on_the_page(sources, tmp_path):
    lines = sources.records.read_text().splitlines()
    lines[4] = lines[4][:200]
    damaged = tmp_path / "records.jsonl"
    damaged.write_text("\n".join(lines) + "\n")
    broken = Sources(
        sources.executed, sources.notebooks, damaged, sources.measurements,
        sources.weights,
    )  # fmt: skip
    assert f"* {damaged}, line 5: schema: not a record: " in status.check_part(broken)
    assert ": 0 found something wrong" in status.check_part(sources)


def test_the_same_files_make_the_same_page(sources, tmp_path):
    words = [
        *("--executed", str(sources.executed), "--notebooks", str(sources.notebooks)),
        *("--records", str(sources.records), "--weights", str(sources.weights)),
        *("--measurements", str(sources.measurements), "--page", str(PAGE)),
    ]
    first, second = tmp_path / "new" / "a.md", tmp_path / "b.md"
    assert status.main([str(first), *words]) == 0
    assert status.main([str(second), *words]) == 0
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert text.startswith("---\nmyst:")
    assert text.count("\n# ") == 1
    assert "{doc}`../notebooks/01`" in text


def test_a_folder_that_is_not_there_is_said_in_one_line(tmp_path, capsys):
    words = ["--executed", str(tmp_path / "none"), "--page", str(PAGE)]
    results = ["--records", str(ROOT / "results/records.jsonl")]
    assert status.main([str(tmp_path / "a.md"), *words, *results]) == 2
    assert capsys.readouterr().err.startswith("error: no folder of executed chapters at")
    assert not (tmp_path / "a.md").exists()


def test_the_stored_page_carries_no_result():
    """It is in the table of contents, so it must be there; its tables must not."""
    text = PAGE.read_text(encoding="utf-8")
    assert "|" not in text.split("---\n", 2)[2]
    assert not re.search(r"\d", text.split("---\n", 2)[2])
    assert fill(text, "made") != text
    with pytest.raises(ValueError, match="no block between"):
        fill("# A page", "made")


def test_a_bar_in_a_cell_does_not_end_it():
    assert status.table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


SCRIPT = "<script>alert('|')</script>"


def test_text_of_a_record_is_shown_and_never_run(sources, tmp_path):
    """A device's name may be anything: it reaches the page and the README as text."""
    record = read_records()[0].model_copy(update={"device": SCRIPT})
    shown = "&lt;script&gt;alert('\\|')&lt;/script&gt;"
    for text in (status.record_part([record]), readme.long_table([record])):
        assert shown in text
        assert "<script" not in text
    measured = read_measurements()[0].model_copy(update={"device": SCRIPT})
    assert shown in status.measurement_part([measured])
    damaged = tmp_path / f"{SCRIPT.replace('/', '')}.jsonl"
    damaged.write_text("{\n")
    page = status.check_part(replace(sources, records=damaged))
    assert "&lt;script&gt;" in page and "<script" not in page
    opening = OPENED.replace("A, B processor", SCRIPT)
    put(tmp_path / "executed/01.ipynb", a_notebook("<script>", opening, **RAN))
    put(tmp_path / "notebooks/03.ipynb", a_notebook("<script>"))
    page = status.tables(sources)
    assert shown in page and "<script" not in page


def test_the_page_is_written_for_the_papers_folder(sources, tmp_path):
    """A chapter whose notebook is gone from the executed folder is not linked."""
    shutil.rmtree(sources.executed)
    sources.executed.mkdir()
    page = status.tables(sources)
    assert "{doc}" not in page
    assert "0 of 3 chapters ran to completion." in page


def test_the_readmes_table_says_long_trainings_in_whole_minutes():
    """No 2.9e+02: what is longer than 99 minutes had two digits and a power of ten."""
    assert [readme.in_minutes(m) for m in (0.351, 3.94, 9.96, 57.6, 290.6)] == [
        "0.35",
        "3.9",
        "10",
        "58",
        "291",
    ]
    records = read_records()
    cells = [line.split(" | ") for line in readme.long_table(records).splitlines()[2:]]
    assert cells and all(re.fullmatch(r"[0-9.]+", row[6]) for row in cells)


def test_the_readmes_chapters_are_the_books_and_their_table_is_square():
    written = readme.chapters(ROOT)
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) > 10 and len({row.count("|") for row in rows}) == 1
    assert written in (ROOT / "README.md").read_text(encoding="utf-8")
