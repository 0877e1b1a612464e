"""The chapters: executed by papermill in the smoke profile, then their values asserted.

`make book` leaves the executed chapters under _build/executed; a chapter that is not there,
or older than its source, is executed here.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from lpa_core.results import paper, read_records

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = ROOT / "_build" / "executed"


def execute(chapter: str, folder: Path, **parameters) -> Path:
    """Run a chapter as a reader would, from a folder that is not the repository."""
    out = folder / f"{chapter}.ipynb"
    papermill.execute_notebook(
        ROOT / "notebooks" / f"{chapter}.ipynb",
        out,
        parameters=parameters,
        cwd=folder,
        progress_bar=False,
    )
    return out


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """Executed chapters by name, each executed at most once."""
    done: dict[str, nbformat.NotebookNode] = {}

    def get(chapter: str) -> nbformat.NotebookNode:
        if chapter not in done:
            path = EXECUTED / f"{chapter}.ipynb"
            source = ROOT / "notebooks" / f"{chapter}.ipynb"
            if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
                path = execute(chapter, tmp_path_factory.mktemp(chapter))
            done[chapter] = nbformat.read(path, as_version=4)
        return done[chapter]

    return get


def glued(notebook: nbformat.NotebookNode) -> dict:
    """The values that a chapter handed to its text."""
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            scrap = output.get("metadata", {}).get("scrapbook")
            if scrap:
                text = next(v for k, v in output.data.items() if k.endswith("text/plain"))
                values[scrap["name"]] = ast.literal_eval(text)
    return values


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_without_errors_or_warnings(executed, chapter):
    notebook = executed(chapter)
    assert len(CHAPTERS) == 10
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", output
            if output.get("name") == "stderr" and "remove-stderr" not in cell.metadata.get(
                "tags", []
            ):
                pytest.fail(f"{chapter} wrote to stderr: {output.text[:500]}")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_numbers_in_prose_are_glued(executed, chapter):
    notebook = executed(chapter)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    used = set(re.findall(r"\{glue:text\}`([\w-]+)", prose))
    assert used == set(glued(notebook))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures_have_captions_and_alternative_texts(executed, chapter):
    for cell in executed(chapter).cells:
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if pictures:
            extra = cell.metadata["mystnb"]
            assert len(pictures) == 1
            assert len(extra["figure"]["caption"]) > 30
            assert len(extra["image"]["alt"]) > 30


def test_the_idea_shows_maps_of_a_shipped_network(executed):
    values = glued(executed("01_idea"))
    assert values["cat-says"] == "cat"
    assert 0.5 < values["cat-probability"] <= 1
    assert 0 < values["top-share"] < 1


def test_the_estimator_by_hand_agrees_and_only_dp_listens(executed):
    values = glued(executed("02_estimator"))
    assert values["largest-difference"] < 1e-6
    assert values["moved-dp"] > 0.2
    assert values["moved-pc"] < 1e-6


def test_attention_costs_twelve_times_the_baseline(executed):
    values = glued(executed("03_networks"))
    # SPEC: about 0.31 and 3.8 billion multiply-adds an image.
    assert values["vgg-gmac"] == pytest.approx(0.31, abs=0.01)
    assert values["att2-gmac"] == pytest.approx(3.8, abs=0.1)
    assert values["ratio-att2"] == pytest.approx(12, abs=0.5)
    assert values["rn164-parameters"] == 1_703_258


def test_the_data_chapter_counts_what_it_shows(executed):
    values = glued(executed("04_data"))
    assert [values[f"embedded-{s}"] for s in ("train", "test", "shifted")] == [
        "8,000",
        "2,000",
        "2,000",
    ]
    assert values["sets-table4"] == len(paper.numbers()["table4"]) - 1  # its caption
    assert values["sets"] >= values["sets-table4"]
    assert 0.09 < values["mask-share"] < 0.13
    assert values["embedded-doubles"] == 0


def test_the_preprocessings_do_what_they_are_for(executed):
    values = glued(executed("04_data"))
    assert values["mean-after"] < 1e-5
    assert values["std-after"] == pytest.approx(1, abs=0.01)
    assert values["dim-change"] < 1e-3  # local contrast does not see the light
    assert values["white-error"] < 1e-4
    assert 0.95 < values["white-strong"] <= 1
    assert values["before-ratio"] > 50
    assert values["correlation-before"] > 0.08 > 0.02 > values["correlation-after"]


def test_the_smoke_run_learns_and_looks_at_the_digit(executed):
    values = glued(executed("05_training"))
    assert values["live-data"] == "embedded"
    assert values["live-error"] < 60  # chance is 90
    assert values["on-digit"] > 1.2 * values["on-uniform"]


def test_table_1_counts_the_records(executed):
    values = glued(executed("06_table1"))
    networks = {r.spec.network for r in read_records() if r.spec.dataset == "cifar10"}
    assert values["rows-all"] == len(paper.table1()) == 11
    assert values["rows-run"] == len(networks & set(paper.table1()))
    assert values["claimed"] == pytest.approx(7.77 - 5.23)
    hundred = {r.spec.network for r in read_records() if r.spec.dataset == "cifar100"}
    assert values["rows-hundred"] == len(hundred & set(paper.table1()))


def test_table_2_counts_the_records(executed):
    values = glued(executed("07_table2"))
    assert values["rows"] == len(paper.table2()) == 6
    for column, name in (("cub200", "run-cub"), ("svhn", "run-svhn")):
        networks = {r.spec.network for r in read_records() if r.spec.dataset == column}
        assert values[name] == len(networks & set(paper.table2()))
    # In the paper: 34.64 to 26.80 on birds, 4.27 to 3.74 on house numbers.
    assert values["gain-cub"] == pytest.approx(7.84)
    assert values["gain-svhn"] == pytest.approx(0.53)
    assert values["birds-runs"] == sum(r.spec.dataset == "cub50" for r in read_records())


def test_the_query_is_nowhere_in_pc_and_somewhere_in_the_others(executed):
    values = glued(executed("08_query"))
    assert values["dead-pc"] < 1e-12
    assert values["dead-dp"] > 1e-5
    assert values["dead-tanh"] > 1e-6
    assert values["off-decay"] < 1e-5  # weight decay alone, to what float32 rounds to
    assert values["left-paper"] < 1e-6
    assert values["moved-pc"] < 1e-5
    assert values["moved-dp"] > 0.01
    assert values["moved-tanh"] > 1e-3
    assert values["pruned-difference"] < 1e-4
    assert values["pruned-agree"] == 100
    # Full width: 5.0 of 19.7 million; the same share at any width.
    assert values["pruned-parameters"] == pytest.approx(25.5, abs=1)
    assert values["pruned-macs"] == pytest.approx(1.25, abs=0.1)


def test_the_controls_cost_what_attention_costs(executed):
    values = glued(executed("09_resolution"))
    compared = {"vgg", "vgg-hires", "vgg-mean2", "vgg-mean3"}
    compared |= {"vgg-att2-concat-pc", "vgg-att3-concat-pc"}
    ran = {
        r.spec.network
        for r in read_records()
        if (r.spec.dataset, r.spec.width, r.spec.recipe) == ("cifar10", 0.25, "fast")
    }
    assert values["run-all"] == len(compared)
    assert values["run-of"] == len(compared & ran)
    assert values["cost-ratio"] == pytest.approx(12.1, abs=0.1)


def test_attention_attached_to_a_resnet_learns(executed):
    values = glued(executed("10_attach"))
    assert values["attached-error"] < 60  # chance is 90
    assert values["largest-growth"] < 2
    assert values["backbones"] == 4


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"profile": "laptopp"}, "'smoke', 'laptop' or 'paper' (got 'laptopp')"),
        ({"retrain": "false"}, "retrain: Input should be a valid boolean (got 'false')"),
        ({"network": "vgg-att4"}, "unknown network 'vgg-att4': choose one of vgg, "),
        ({"seed": "3"}, "seed: Input should be a valid integer (got '3')"),
        ({"netwrok": "vgg"}, "unknown parameter 'netwrok': this chapter has profile, "),
    ],
)
def test_a_wrong_parameter_stops_the_chapter_at_once(tmp_path, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute("05_training", tmp_path, **parameters)
    assert caught.value.ename == "ParameterError"
    assert message in caught.value.evalue
    assert not (tmp_path / "runs").exists()


def test_solutions_pass_their_own_checks(executed):
    """Each folded solution, in place of the exercise, satisfies the check."""
    checked = 0
    for chapter in CHAPTERS:
        cells = executed(chapter).cells
        for index, cell in enumerate(cells):
            check = re.search(r"^def (check_\w+)\(", cell.source, re.MULTILINE)
            if cell.cell_type != "code" or not check:
                continue
            folded = cells[index + 1].source
            solution = re.search(r"```python\n(.*?)```", folded, re.DOTALL)
            name = re.search(r"^def (\w+)", solution[1]).group(1)
            namespace = preceding_names(cells[:index])
            exec(cell.source, namespace)
            assert "not written yet" in namespace[check[1]](namespace[name])
            exec(solution[1], namespace)
            assert namespace[check[1]](namespace[name]).startswith("right")
            checked += 1
    assert checked == 6


def preceding_names(cells) -> dict:
    """Imports and definitions of the cells before an exercise."""
    namespace = {}
    for cell in cells:
        if cell.cell_type == "code":
            kept = [
                node
                for node in ast.parse(cell.source.replace("display(", "print(")).body
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
                or (
                    isinstance(node, ast.Assign)
                    and {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
                    <= {"np"}
                )
            ]
            exec(compile(ast.Module(kept, []), "<cells>", "exec"), namespace)
    return namespace


def test_stored_notebooks_have_no_outputs():
    for chapter in CHAPTERS:
        stored = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text())
        for cell in stored["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
