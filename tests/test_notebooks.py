"""The chapters: executed by papermill in the smoke profile, then their values asserted.

`make book` leaves the executed chapters under _build/executed; a chapter that is not there,
or older than its source, is executed here.
"""

import ast
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
import torch.nn.functional as F
import yaml
from bs4 import BeautifulSoup
from scipy import stats
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from lpa_core.cli import SEVERAL, OwnNetwork, OwnRecipe, TrainOptions, parse
from lpa_core.data import load, load_photographs, photograph_masks
from lpa_core.provenance import seal
from lpa_core.results import (
    claim_findings,
    difference,
    paper,
    read_measurements,
    read_records,
    shipped_network,
)
from lpa_core.tasks.segment import attention_method, enlarged
from lpa_core.training import RunSpec

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


def rows_of(html: str) -> list[list[str]]:
    """The cells of a table's body, row by row."""
    rows = BeautifulSoup(html, "html.parser").select("tbody tr")
    return [[cell.get_text() for cell in row.select("td")] for row in rows]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_runs_without_errors_or_warnings(executed, chapter):
    for cell in executed(chapter).cells:
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
        kinds = {"image/png", "image/svg+xml"}
        pictures = [o for o in cell.get("outputs", []) if kinds & set(o.get("data", {}))]
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


def test_the_log_shows_one_training_run_of_each_of_the_four_networks(executed):
    """Whatever else of them was trained: longer, wider, begun otherwise."""
    cell = next(c for c in executed("05_training").cells if "for r in shown" in c.source)
    (output,) = cell.outputs
    assert [row[:5] for row in rows_of(output.data["text/html"])] == [
        [network, "cifar10", "0.25", "0", "10"]
        for network in ("vgg", "vgg-hires", "vgg-mean2", "vgg-att2-concat-pc")
    ]


def test_each_choice_that_was_undone_is_compared_with_the_whole_recipe(executed):
    values = glued(executed("05_training"))
    errors: dict[str, list[float]] = {}
    for line in (ROOT / "results/records.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spec = record["spec"]
        usual = {"network": "vgg", "dataset": "cifar10", "recipe": "fast", "width": 0.25}
        free = {"seed", "overrides", "epochs", "precision"}
        stated = {k: v for k, v in spec.items() if k not in free and v}
        if (stated, record["epochs"]) == (usual, 10):
            told = json.dumps(spec.get("overrides"))
            errors.setdefault(told, []).append(record["metrics"]["test_error"])
    whole = errors.pop("null")
    assert values["whole-runs"] == len(whole) >= 3
    assert values["undone"] == len(errors)
    cell = next(c for c in executed("05_training").cells if "UNDONE = {" in c.source)
    rows = rows_of(cell.outputs[0].data["text/html"])
    assert [rows[0][1], rows[0][2]] == [str(len(whole)), f"{np.mean(whole):.2f}"]
    assert sorted(float(row[2]) for row in rows[1:] if row[1] != "0") == pytest.approx(
        sorted(np.mean(e) for e in errors.values()), abs=0.006
    )


def test_sixty_epochs_of_both_recipes_are_those_of_the_records(executed):
    cell = next(c for c in executed("05_training").cells if "def last_error" in c.source)
    rows = rows_of(cell.outputs[0].data["text/html"])
    assert len(rows) == 4
    for network, recipe, training, test, runs, reported in rows:
        found = [
            r
            for r in read_records()
            if r.spec.network == network and r.epochs == 60 and r.spec.dataset == "cifar10"
            if r.spec.trained() == f"{recipe}, 60 epochs" and r.spec.width == 0.25
        ]
        assert int(runs) == len(found) > 0
        assert test == f"{np.mean([r.metrics['test_error'] for r in found]):.1f}"
        assert training == f"{np.mean([r.history[-1].train_error for r in found]):.1f}"
        assert bool(reported) == (recipe == "paper")


def test_table_1_counts_the_records(executed):
    values = glued(executed("06_table1"))
    networks = {r.spec.network for r in read_records() if r.spec.dataset == "cifar10"}
    assert values["rows-all"] == len(paper.table1()) == 11
    assert values["rows-run"] == len(networks & set(paper.table1()))
    assert values["claimed-cifar10"] == pytest.approx(7.77 - 5.23)
    assert values["claimed-cifar100"] == pytest.approx(30.62 - 23.19)
    for dataset, width, key in (("cifar10", 0.25, "narrow"), ("cifar100", 1.0, "full")):
        vgg, att2 = (
            [
                r.metrics["test_error"]
                for r in read_records()
                if (r.spec.network, r.spec.dataset, r.spec.width) == (name, dataset, width)
                and (r.spec.recipe_label(), r.epochs) == ("fast", 10)
                and not r.spec.beginning()
            ]
            for name in ("vgg", "vgg-att2-concat-pc")
        )
        told = f"{np.mean(vgg) - np.mean(att2):+.2f} ("
        assert values[f"{key}-{dataset}"].startswith(told)
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
    for name in ("cub127", "cub50"):
        birds = [r for r in read_records() if r.spec.dataset == name]
        assert values[f"{name}-runs"] == len(birds)
        for key, other in COMPARED_ON_BIRDS.items():
            said, count = values[f"{name}-{key}"], len(errors_of(birds, other))
            if count > 1:
                assert said.startswith(told_of(birds, other))
                if "(-" in said:
                    assert said.endswith("cannot be decided")
            else:
                assert (said == "not run") == (count == 0)


COMPARED_ON_BIRDS = {"all": "vgg", "grid": "vgg-hires", "weights": "vgg-mean2"}


def errors_of(birds, network) -> list[float]:
    here = [r for r in birds if (r.spec.network, r.spec.width) == (network, 0.25)]
    return [r.metrics["test_error"] for r in here]


def told_of(birds, other="vgg") -> str:
    """Another network's errors less those of vgg-att2, with Welch's interval by SciPy."""
    one, att2 = errors_of(birds, other), errors_of(birds, "vgg-att2-concat-pc")
    low, high = stats.ttest_ind(one, att2, equal_var=False).confidence_interval(0.95)
    return f"{np.mean(one) - np.mean(att2):+.2f} ({low:+.2f} to {high:+.2f}): "


def test_runs_with_changes_are_not_taken_for_the_recipes_own(executed, tmp_path):
    """Your own records may hold runs with another rate, other weights or fewer images."""
    ours = read_records()
    plain = [r for r in ours if r.spec.dataset in ("cifar10", "cifar100")]
    for change in (
        {"overrides": {"lr": 0.3}},
        {"initial": "other.safetensors"},
        {"train_images": 5000},
    ):
        for r in plain:
            wrong = {"metrics": r.metrics | {"test_error": 99.0}}
            spec = r.spec.model_copy(update=change)
            ours.append(r.model_copy(update=wrong | {"spec": spec, "id": f"{len(ours)}"}))
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f"{seal(r.model_dump_json())}\n" for r in ours))
    path = execute("09_resolution", tmp_path, records=str(file))
    values = glued(nbformat.read(path, as_version=4))
    assert values == glued(executed("09_resolution"))


def test_no_chapter_filters_runs_by_the_name_of_their_recipe():
    """`repetitions` tells apart what the name does not: overrides, initial weights."""
    for chapter in CHAPTERS:
        for cell in nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", 4).cells:
            assert not re.search(r"\bspec\.recipe\b|\br\.spec\.label\(", cell.source), (
                chapter
            )


def test_the_birds_question_is_of_two_networks_whatever_else_was_trained(tmp_path):
    """Records of one's own may hold controls and other widths as well."""
    birds = [r for r in read_records() if r.spec.dataset == "cub50"]
    vgg = next(r for r in birds if r.spec.network == "vgg")
    others = [{"network": "vgg-hires", "seed": 5}, {"width": 1.0}]
    more = [
        vgg.model_copy(update={"spec": vgg.spec.model_copy(update=u), "id": str(n)})
        for n, u in enumerate(others)
    ]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f"{seal(r.model_dump_json())}\n" for r in [*birds, *more]))
    path = execute("07_table2", tmp_path, records=str(file))
    values = glued(nbformat.read(path, as_version=4))
    errors = [r.metrics["test_error"] for r in birds if r.spec.network == "vgg"]
    assert values["cub50-spread"] == f"{np.std(errors, ddof=1):.1f}"
    # A vgg of another width is a single run here too, but of this width there are three.
    assert values["cub50-once"] == "vgg-mean2"
    assert values["cub127-once"] == "none"
    assert values["cub50-all"].startswith(told_of(birds))
    assert values["cub50-grid"] != "not run" == values["cub127-all"]
    assert values["cub50-runs"] == len(birds) + len(more)


def test_the_query_is_nowhere_in_pc_and_somewhere_in_the_others(executed):
    values = glued(executed("08_query"))
    assert values["dead-pc"] < 1e-12
    assert values["dead-dp"] > 1e-5
    assert values["dead-tanh"] > 1e-6
    assert values["off-decay"] < 1e-5  # weight decay alone, to what float32 rounds to
    # In effect a rate of 1, half of that from epoch 25 on: SGD's exponential, to 5 %.
    assert values["left-paper"] == pytest.approx(np.exp(-5e-4 * 390 * 24.5), rel=0.05)
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
    compared = {"vgg", "vgg-hires", "vgg-mean2", "vgg-mean3", "vgg-wide"}
    compared |= {"vgg-att2-concat-pc", "vgg-att3-concat-pc"}
    ran = {}
    for r in read_records():
        network, *usual = r.spec.network, r.spec.dataset, r.spec.recipe_label(), r.epochs
        if usual != ["cifar10", "fast", 10] or r.spec.beginning():
            continue
        if (network, r.spec.width) == ("vgg", 0.87):
            network = "vgg-wide"
        elif r.spec.width != 0.25:
            continue
        ran.setdefault(network, []).append(r.metrics["test_error"])
    assert values["run-all"] == len(compared)
    assert values["run-of"] == len(compared & ran.keys())
    found = difference(ran["vgg-mean2"], ran["vgg-att2-concat-pc"])
    told = f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
    assert values["cifar10-attention"].startswith(f"{told}: ")
    assert f"attention itself accounts for {told} points." in values["share"]
    wide = ran.get("vgg-wide")
    if wide is None:
        assert values["cifar10-beyond"] == "not run"
    else:
        points = np.mean(wide) - np.mean(ran["vgg-att2-concat-pc"])
        assert values["cifar10-beyond"].startswith(f"{points:+.2f} (")
    assert values["cost-ratio"] == pytest.approx(12.1, abs=0.1)


def test_what_ten_epochs_hide_is_asked_of_the_longest_training(executed):
    values = glued(executed("09_resolution"))
    errors: dict[int, dict[str, list[float]]] = {}
    for r in read_records():
        way = r.spec.dataset, r.spec.recipe_label(), r.spec.width
        if way != ("cifar10", "fast", 0.25):
            continue
        if not r.spec.beginning():
            row = errors.setdefault(r.epochs, {})
            row.setdefault(r.spec.network, []).append(r.metrics["test_error"])
    assert values["longest"] == max(errors) == 60
    vgg, att2 = (errors[60].get(name, []) for name in ("vgg", "vgg-att2-concat-pc"))
    told = f"{np.mean(vgg) - np.mean(att2):+.2f} (" if vgg and att2 else "not run"
    assert values["longest-all"].startswith(told)


def test_attention_attached_to_a_resnet_learns(executed):
    values = glued(executed("16_attach"))
    assert values["attached-error"] < 60  # chance is 83
    assert values["largest-growth"] < 2
    assert values["backbones"] == 4


def test_an_attack_moves_the_image_and_a_blind_one_shows(executed):
    values = glued(executed("10_adversarial"))
    test = load("embedded", "test")
    # Behind mean-std a step of 4 levels is one of 4 / σ, largest in the flattest channel.
    flattest = (test.images.numpy() / 255).std(axis=(0, 1, 2)).min()
    assert values["step-image"] == pytest.approx(4, abs=1e-3)
    assert values["step-mean-std"] == pytest.approx(4 / flattest, rel=1e-2)
    # FGSM once more, with nothing of lpa_core's attack.
    trained = shipped_network("vgg", "embedded")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    some = order[: values["attacked-images"]]
    x = (test.images[some].permute(0, 3, 1, 2) / 255).requires_grad_()
    logits = trained.network(trained.preprocess(x))
    F.cross_entropy(logits, test.labels[some]).backward()
    before, rates = logits.argmax(1), {}
    for eps in (1, 16):
        moved = (x + eps / 255 * x.grad.sign()).detach().clamp(0, 1)
        with torch.no_grad():
            after = trained.network(trained.preprocess(moved)).argmax(1)
        rates[eps] = 100 * (before != after).double().mean().item()
    assert int(values["fooled-vgg"].removesuffix(" %")) == pytest.approx(rates[1], abs=1)
    assert values["transferred"] == pytest.approx(rates[16], abs=1)
    # Logits times 1000: the same answers, no gradient, and the attack finds nothing.
    assert values["blind-zero"] > 90 > 10 > values["zero-most"]
    assert values["blind-fooled"] < 0.2 * values["transferred"]
    assert 0 < values["shift-first"] < values["shift-last"] < 1
    # Figure 6: 58.58 and 53.78 at 1, 96.46 and 97.60 at 16.
    assert values["claimed-gap"] == pytest.approx(58.58 - 53.78)
    assert values["claimed-last"] == pytest.approx(96.46 - 97.60)
    variance = sum(p * (1 - p) for p in (0.5858, 0.5378)) / 5794
    half = 100 * stats.t.ppf(0.975, 5793) * np.sqrt(variance * 5794 / 5793)
    assert values["paper-half"] == pytest.approx(half, abs=1e-6)
    # A verdict on networks takes two trainings of either.
    trainings = {}
    for m in read_measurements():
        if m.task != "attack" or m.settings["attack"] != "fgsm":
            continue
        if m.weights.dataset == m.data.name:
            key = m.data.name, m.network
            trainings.setdefault(key, set()).add(m.weights.sha256)
    for first, name in (("vgg", "verdict-lower"), ("vgg-hires", "verdict-control")):
        pairs = {
            dataset: max(len(found), len(trainings[dataset, "vgg-att2-concat-pc"]))
            for (dataset, network), found in trainings.items()
            if network == first and (dataset, "vgg-att2-concat-pc") in trainings
        }
        if not pairs:
            assert values[name] == "not run"
        else:
            assert all(dataset in values[name] for dataset in pairs)
            if max(pairs.values()) < 2:
                assert values[name].startswith("cannot be decided: ")
                assert "hold" not in values[name]


def test_features_elsewhere_are_worth_what_scikit_learn_says(executed):
    values = glued(executed("11_cross_domain"))
    assert values["features-vgg"] == 512
    assert values["features-att3"] == 1280  # SPEC section 5
    assert values["chance"] == 10
    # The baseline's accuracy once more, by scikit-learn alone.
    shifted = load("embedded", "shifted")
    order = torch.randperm(len(shifted), generator=torch.Generator().manual_seed(0))
    pick = torch.cat([order[shifted.labels[order] == k][:60] for k in range(10)])
    x = shipped_network("vgg", "embedded").attend(shifted.images[pick]).features
    scores = 100 * cross_val_score(
        LinearSVC(C=1, dual=False),
        x.numpy(),
        shifted.labels[pick].numpy(),
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
    )
    told = float(values["accuracy-vgg"].removesuffix(" %"))
    assert told == pytest.approx(scores.mean(), abs=0.4)
    for name in ("accuracy-pixels", "accuracy-untrained"):
        assert 0 < values[name] < 30 < told
    assert values["expected-folds"] == pytest.approx(
        (told * (100 - told) / 120) ** 0.5, abs=0.05
    )
    assert values["over-divisions"] < values["over-folds"]
    # A tenth of the images is of the class that was renamed.
    assert values["direct-all"] == pytest.approx(0.9 * values["direct-known"])
    assert 0 <= values["solvers-differ"] < 0.5
    # Claim 5 against the paper's own table.
    rows = {
        name: [n for pair in row.values() for n in pair]
        for name, row in paper.numbers()["table3"].items()
        if name not in ("caption", "columns")
    }
    new = [n for name, n in rows.items() if "att" in name]
    old = [n for name, n in rows.items() if "att" not in name]
    margins = [
        [a - b for a, b in zip(one, other, strict=True) if a is not None and b is not None]
        for one in new
        for other in old
    ]
    flat = [m for row in margins for m in row]
    means = [sum(row) / len(row) for row in margins]
    assert (len(new), len(old)) == (3, 4)
    assert values["margins-all"] == len(flat)
    assert values["margins-better"] == sum(m > 0 for m in flat) < len(flat)
    assert values["margin-low"] == pytest.approx(min(means))
    assert values["margin-high"] == pytest.approx(max(means))
    ten_hundred = [
        (row[i], row[i + 1])
        for row in rows.values()
        for i in range(0, len(row), 2)
        if row[i + 1] is not None
    ]
    assert values["hundred-all"] == len(ten_hundred)
    assert values["hundred-better"] == sum(b > a for a, b in ten_hundred)
    # What was measured: verdicts of the claims, and means of the very measurements.
    said = [f for f in claim_findings(5, [], read_measurements()) if f.measured]
    for on, other in product(("cifar10", "cifar100"), ("vgg", "vgg-hires", "vgg-mean2")):
        ours = [f for f in said if (f.against, f.trained) == (other, on)]
        told = values[f"{other.removeprefix('vgg-')}-{on}"]
        assert counted(ours) in told
        if ours:
            average = np.mean([f.measured.mean for f in ours])
            assert told.startswith(f"{average:+.1f} points; ")
    more = [f for f in said if f.part.endswith("trained on cifar100 - on cifar10")]
    assert counted(more) in values["verdict-hundred"]


def counted(findings) -> str:
    """The commonest verdict of some findings, and how many of them have it."""
    said = Counter(f.verdict for f in findings if f.measured).most_common(1)
    return f"{said[0][0]}: {said[0][1]} of " if said else "not run"


def test_the_segmentation_chapter_scores_what_it_says(executed):
    """Its scores against masks cut here, by an Otsu and an overlap of the test's own."""
    values = glued(executed("12_segmentation"))
    whole = load("embedded", "test")
    data = whole.take(torch.arange(60) * len(whole) // 60)
    assert values["live-images"] == len(data)
    share = data.masks.double().mean().item()
    assert values["live-object"] == pytest.approx(100 * share)

    def overlap(values, truth):
        levels = np.linspace(values.min(), values.max(), 257)[1:-1]
        cut = max(levels, key=lambda t: between(values, t))
        mask = values > cut
        return 100 * (mask & truth).sum() / (mask | truth).sum()

    def between(values, t):
        high = values > t
        if high.all() or not high.any():
            return 0
        return (
            high.mean()
            * (1 - high.mean())
            * (values[high].mean() - values[~high].mean()) ** 2
        )

    # Step by step it is a photograph, the flower, under a network of CIFAR-10's classes.
    method = attention_method(shipped_network("vgg-att3-concat-pc", "cifar10"))
    one = enlarged(method(load_photographs(size=256)[1][5:6])[0], 256, 256)
    found = overlap(one, photograph_masks(size=256)[5].numpy())
    assert values["one-jaccard"] == pytest.approx(found, abs=3)
    assert values["one-jaccard"] <= values["one-best"]
    assert values["one-reached"] == pytest.approx(100, abs=2)  # of the largest variance
    assert values["one-otsu"] == pytest.approx(values["one-hand"], abs=0.03)

    place = (np.arange(32) + 0.5) / 32 - 0.5
    bell = np.exp(-8 * (place[:, None] ** 2 + place**2))
    centre = np.mean([overlap(bell, truth) for truth in data.masks.numpy()])
    assert values["live-centre"] == pytest.approx(centre, abs=1)
    assert values["live-attention"] == 4
    assert values["live-better"] + values["live-worse"] <= 4
    # Flat, bright digits that do not touch the border are what saliency was made for.
    assert values["live-other-jaccard"] > 50
    assert 45 < values["noise-marks"] < 55
    assert values["empty-pairs"] == 1


def test_the_segmentation_chapter_takes_no_stand_in_for_the_papers_photographs(executed):
    values = glued(executed("12_segmentation"))
    ours = [m for m in read_measurements() if m.task == "segment"]
    assert values["same-data"] == 0  # coseg is never set off against the paper
    discovery = [m for m in ours if m.data.name == "object_discovery"]
    assert (values["discovery-run"] > 0) == bool(discovery)
    coseg = [
        m
        for m in ours
        if m.data.name == "coseg" and (not m.weights or m.weights.dataset == "cifar10")
    ]
    assert values["recorded-images"] == max((m.data.images for m in coseg), default=0)
    assert values["claim-mcg"] == "not run"  # it is quoted, never run
    # What a conditional random field changes, from the measurements alone.
    hundred = [m for m in ours if m.weights and m.weights.dataset == "cifar100"]
    score = {}
    for m in [*coseg, *hundred]:
        if "all" in m.metrics and not m.settings.get("cam"):
            made = m.settings["method"], m.network, m.weights and m.weights.run
            score[*made, "refine" in m.settings] = m.metrics["all"]["jaccard"]
    gains = [
        100 * (after - score[*made, False])
        for (*made, refined), after in score.items()
        if refined
    ]
    assert values["field-rows"] == len(gains) > 5
    assert values["field-better"] == sum(gain > 0 for gain in gains)
    assert values["field-most-points"] == f"{max(gains):+.1f} points"
    assert values["field-least-points"] == f"{min(gains):+.1f} points"
    alone = score["centre", None, None, True] - score["centre", None, None, False]
    assert values["field-centre-points"] == f"{100 * alone:+.1f} points"
    # Verdicts are the claims', of the network that the paper claims it of, in its classes.
    said = claim_findings(6, [], read_measurements(), "coseg")
    for rival in ("vgg-gap", "vgg-pan", "centre"):
        ours = [
            f
            for f in said
            if (f.network, f.against) == ("vgg-att3-concat-pc", rival)
            and f.part.split(":")[0] in ("airplane", "car", "horse")
            and not f.part.endswith("trained on cifar100")
        ]
        assert counted(ours) in values[f"claim-{rival}"]


def test_the_query_moves_dp_and_tanh_and_leaves_pc_alone(executed):
    values = glued(executed("13_query_maps"))
    assert values["pairs"] == 400
    # One digit has about a tenth of its image, and the targets are drawn from all.
    share = load("embedded", "test").masks.double().mean().item()
    assert values["uniform"] == pytest.approx(share, abs=0.01)
    # The identity: rounding, which shrinks with the precision as rounding does.
    assert values["pc-largest"] < 1e-5
    assert values["pc-32"] < 1e-5
    assert values["pc-64"] < 1e-7 * values["pc-32"]
    assert values["claim-pc-does-not-move"].startswith("holds")
    assert float(values["dp-one"].split()[0]) > 5
    assert float(values["tanh-one"].split()[0]) > 90
    assert float(values["tanh-still"].split()[0]) < 5
    assert "holds" in values["claim-dp-moves"]
    # A relative change of any size, where next to nothing was and next to nothing moved.
    before, after = values["spot-before"], values["spot-after"]
    assert values["spot-change"] == pytest.approx(abs(after - before) / before, rel=1e-6)
    assert values["spot-change"] > 1e3
    assert abs(after - before) <= 2 * values["spot-moved"]
    recorded = [m for m in read_measurements() if m.task == "query"]
    shown = [m for m in recorded if m.settings["layer"] == "layer10"]
    assert values["recorded"] == len(shown)
    for said in (values["steer-dp"], values["steer-tanh"]):
        mean, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", said))
        assert low < mean < high and high - mean == pytest.approx(mean - low, abs=2e-4)


def test_each_level_has_the_numbers_of_its_maps(executed):
    values = glued(executed("14_levels"))
    test = load("embedded", "test")
    pick = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:200]
    trained = shipped_network("vgg-att3-concat-pc", "embedded")
    sharpest = []
    for maps in trained.attend(test.images[pick]).maps.values():
        p = maps.flatten(1).double().numpy()
        each = -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1) / np.log(p.shape[1])
        sharpest.append(each.mean())
    assert values["described-images"] == 200
    assert values["entropy-attention"] == pytest.approx(min(sharpest), abs=1e-4)
    assert 0.5 < values["entropy-activation"] < 1
    ours = [
        m
        for m in read_measurements()
        if m.task == "look"
        and (m.data.name, m.weights.dataset) == ("coseg", "cifar10")
        and not m.weights.beginning
    ]
    for network, layers in (
        ("att3", ("layer7", "layer13")),
        ("att2", ("layer10", "layer13")),
    ):
        mine = [m for m in ours if m.network == f"vgg-{network}-concat-pc"]
        low, high = (
            [m.metrics["attention"][layer]["density"] for m in mine] for layer in layers
        )
        for key, over in (
            ("avoids", [1 - d for d in low]),
            ("seeks", [d - 1 for d in high]),
        ):
            p = stats.ttest_1samp(over, 0).pvalue
            if p < 0.025:  # of two parts: decided whatever the other is
                sign = "holds" if np.mean(over) > 0 else "does not hold"
                assert values[f"{network}-{key}"].startswith(f"{sign}: 1 of 1")


def test_networks_by_their_beginning_were_all_trained_for_ten_epochs(executed):
    cell = next(c for c in executed("14_levels").cells if "by_start" in c.source)
    table = cell.outputs[0].data["text/html"]
    shown = {tuple(row[:2]): row[2:5] for row in rows_of(table)}
    assert len(shown) > 5
    found: dict[tuple, list[float]] = {}
    for r in read_records():
        way = r.spec.dataset, r.spec.width, r.spec.recipe_label(), r.epochs
        if way == ("cifar10", 0.25, "fast", 10):
            key = r.spec.network, r.spec.beginning() or "pytorch"
            found.setdefault(key, []).append(r.metrics["test_error"])
    for key, (runs, error, _) in shown.items():
        assert (int(runs), error) == (len(found[key]), f"{np.mean(found[key]):.2f}"), key


def test_small_runs_have_learned_before_they_are_compared(executed):
    """Of networks that guess, the maps say nothing about what training does."""
    values = glued(executed("14_levels"))
    assert values["pytorch-error"] < 30 and values["scripts-error"] < 60  # a guess: 90
    assert values["pytorch-before"] > 0.95 > 0.5 > values["scripts-before"]


def test_the_claims_are_what_the_records_say(executed):
    values = glued(executed("15_claims"))
    errors: dict[str, dict[int, float]] = {}
    for line in (ROOT / "results/records.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spec = record["spec"]
        way = spec["dataset"], spec["recipe"], record["epochs"]
        usual = way == ("cifar10", "fast", 10)
        if not usual or any(map(spec.get, ("initialisation", "query_std", "overrides"))):
            continue
        network, width = spec["network"], spec["width"]
        if (network, width) == ("vgg", 0.87):
            network = "vgg-wide"
        elif width != 0.25:
            continue
        errors.setdefault(network, {})[spec["seed"]] = record["metrics"]["test_error"]
    ours = list(errors["vgg-att2-concat-pc"].values())
    for other in ("vgg", "vgg-hires", "vgg-mean2", "vgg-wide"):
        name = f"cifar10-{other}"
        theirs = list(errors[other].values())
        assert values[name].startswith(f"{np.mean(theirs) - np.mean(ours):+.2f} (")
        if min(len(ours), len(theirs)) > 1:
            test = stats.ttest_ind(theirs, ours, equal_var=False)
            low, high = test.confidence_interval(0.95)
            assert f"({low:+.2f} to {high:+.2f})" in values[name]
            if low <= 0:
                assert not values[name].endswith(": holds")
    whole, without = (
        np.mean(list(errors["vgg"].values())) - np.mean(list(errors[name].values()))
        for name in ("vgg-att2-concat-pc", "vgg-mean2")
    )
    assert f"lower than that of vgg by {whole:+.2f} (" in values["share"]
    assert f"lower than vgg's by {without:+.2f} (" in values["share"]
    counts = [values[f"parts-{state}"] for state in ("holds", "fails", "open", "missing")]
    assert sum(counts) == values["parts-all"] > 40
    assert 0 < values["parts-paper"] < values["parts-all"]
    lacking = re.findall(r"(\w+) \((\d+)\)", values["parts-lacking"])
    assert sum(int(n) for _, n in lacking) == values["parts-missing"]
    assert {"svhn", "cub200"} <= {name for name, _ in lacking}  # nobody measured there


def printed_commands(notebook: nbformat.NotebookNode) -> list[str]:
    """The commands that train the grid `gpu`, as the chapter prints them."""
    texts = [
        output.get("text", "") for c in notebook.cells for output in c.get("outputs", [])
    ]
    (text,) = [text for text in texts if text.startswith("python -m lpa_core train ")]
    return text.replace("\\\n", "").strip().split("\n\n")


def test_the_batch_survives_in_its_chapter(executed):
    chapter = executed("17_running")
    values = glued(chapter)
    rules = re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE)
    # The book itself asks for neither of these.
    assert values["rules"] == len(set(rules) - {"steps", "teaching_lab"})
    grid = yaml.safe_load((ROOT / "lpa_core/plan/laptop.yaml").read_text(encoding="utf-8"))
    seeds = [len(seeds) for runs in grid["runs"] for seeds in runs["networks"].values()]
    assert values["planned"] == sum(seeds)
    assert 0 <= values["recorded"] <= len(read_records())
    kept = (ROOT / "results/throughput.jsonl").read_text().splitlines()
    speed = json.loads(kept[-1])
    middle = speed["medians"]
    if "shares" in speed:
        best = max(speed["shares"], key=speed["shares"].get)
        share, times = speed["shares"][best], middle[best] / middle["plain"]
    else:
        best = f"vgg-att2-concat-pc, {speed['batches'][0]}"
        share = middle[best] * speed["operations"] / middle["rate"]
        times = middle["vgg-att3-concat-pc"] / middle["plain re-implementation"]
    assert values["faster"] == pytest.approx(times)
    assert values["of-the-product"] == f"{share:.0%}"
    assert values["speed-gpus"].endswith(f" of {len(kept)}")
    gpu = yaml.safe_load((ROOT / "lpa_core/plan/gpu.yaml").read_text(encoding="utf-8"))
    runs = [len(seeds) for runs in gpu["runs"] for seeds in runs["networks"].values()]
    assert values["gpu-runs"] == sum(runs)
    wide = [r.seconds for r in read_records() if r.spec.width == 1 and "NV" in r.device]
    assert values["gpu-recorded"] == len(wide)
    together = [json.loads(line).get("together") for line in kept]
    last = [parts for parts in together if parts][-1]
    assert values["gpu-together"] == pytest.approx(sum(v or 0 for v in last.values()))
    side = [r for r in read_records() if r.git.commit.startswith("17e08cc")]
    assert values["side-runs"] == len(side) >= 54
    assert values["side-minutes"] < values["side-sum"] / 5
    assert values["side-sum"] == pytest.approx(sum(r.seconds for r in side) / 60)
    models = RunSpec, OwnRecipe, OwnNetwork, TrainOptions
    for command, group in zip(printed_commands(chapter), gpu["runs"], strict=True):
        given = parse("train", command.split()[4:], *models, several=SEVERAL)
        assert set(given["network"]) == set(group["networks"]) and given["width"] == 1
        assert [given["dataset"], given["profile"]] == [group["dataset"], "gpu"]
        assert {tuple(s) for s in group["networks"].values()} == {tuple(given["seed"])}
    assert values["killed-sessions"] == 2 and values["killed-after"] >= 1
    assert values["killed-same"] == "the same" and values["killed-differ"] == 0
    assert values["lines-in-order"] == "none is missing" and values["steady-lines"] == 60
    assert 0 < values["doomed-lines"] < 60
    assert values["checks"] > 500 and values["checks-wrong"] == 0
    assert 0 <= values["checks-open"] < values["checks"]
    assert values["checks-caught"] == "is found"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"profile": "laptopp"}, "'smoke', 'laptop', 'gpu' or 'paper' (got 'laptopp')"),
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


def test_stored_notebooks_have_no_outputs():
    for chapter in CHAPTERS:
        stored = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text())
        for cell in stored["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
