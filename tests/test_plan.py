"""The grid and the plan: what is done, what is not and why, and what it would cost."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from lpa_core.cli import OwnRecipe, main, overrides_of, parse, pick
from lpa_core.networks import list_networks
from lpa_core.plan import (
    GridError,
    Places,
    Plan,
    make_plan,
    plan_table,
    read_grid,
    total,
    write_plan,
)
from lpa_core.plan import plan as planning
from lpa_core.plan.grid import GRIDS
from lpa_core.provenance import seal, unseal
from lpa_core.results import paper, read_measurements, read_records
from lpa_core.results.parts import CONTROLS
from lpa_core.tasks import TASKS, MeasureOptions, measure
from lpa_core.training import RECIPES, RunSpec, config, run

ROOT = Path(__file__).resolve().parents[1]
GRID = {
    "profile": "smoke",
    "weights": "shipped",
    "runs": [
        {
            "dataset": "embedded",
            "recipe": "fast",
            "width": 0.0625,
            "epochs": 2,
            "train_images": 256,
            "networks": {"vgg": [0, 1], "vgg-att-pc": [0]},
        }
    ],
    "measurements": [
        {
            "task": "look",
            "dataset": "embedded",
            "trained_on": "embedded",
            "images": 64,
            "networks": {"vgg-att-pc": [0]},
        }
    ],
}
VGG0, VGG1 = "vgg_embedded_w0.0625_fast_e2_s0", "vgg_embedded_w0.0625_fast_e2_s1"
ATT = "vgg-att-pc_embedded_w0.0625_fast_e2_s0"
LOOK = f"look-embedded-64-images_{ATT}"


def changed(**changes) -> dict:
    """The grid with some fields of its first group of runs changed."""
    grid = json.loads(json.dumps(GRID))
    grid["runs"][0] |= changes
    return grid


def measuring(**changes) -> dict:
    """The grid with some fields of its measurement changed."""
    return GRID | {"measurements": [GRID["measurements"][0] | changes]}


def written(folder: Path, grid: dict) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which one network of the grid is trained and measured."""
    folder = tmp_path_factory.mktemp("finished")
    grid = read_grid(written(folder, GRID))
    for spec in grid.specs()[1:]:  # all but the first seed of vgg
        run(spec, runs=folder / "runs", records=folder / "records.jsonl", progress=False)
    (weights,) = folder.glob("runs/vgg-att-pc_*/weights.safetensors")
    where = MeasureOptions(
        dataset="embedded", images=64, path=folder / "measured.jsonl", progress=False
    )
    measure("look", [weights], where=where)
    return folder


@pytest.fixture
def there(finished, tmp_path, monkeypatch):
    """A copy of it, and the working directory beside it."""
    for name in ("records.jsonl", "measured.jsonl"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    (tmp_path / "runs").symlink_to(finished / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(folder: Path, **others) -> Places:
    return Places(
        runs=folder / others.get("runs", "runs"),
        records=folder / others.get("records", "records.jsonl"),
        measurements=folder / "measured.jsonl",
    )


def planned(folder: Path, grid: dict = GRID, keep: bool = False, **others) -> dict:
    """The plan's steps by name."""
    here = places(folder, **others)
    plan = make_plan(read_grid(written(folder, grid)), here, "cpu", keep)
    return {step.name: step for step in plan.steps}


def another_version(monkeypatch, **concerns) -> None:
    """As if training had been changed on purpose."""
    change = config.TrainingChange(config.TRAINING_VERSION + 1, "a test", **concerns)
    monkeypatch.setattr(config, "TRAINING_CHANGES", (*config.TRAINING_CHANGES, change))


def sealed(lines) -> str:
    return "".join(seal(json.dumps(line)) + "\n" for line in lines)


# -------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_each_profile_has_a_grid_of_its_own(profile):
    grid = read_grid(profile)
    assert grid.profile == profile
    assert grid.specs()


@pytest.mark.parametrize("profile", ["laptop", "gpu", "paper"])
def test_the_grids_hold_table_1_and_the_controls(profile):
    specs = [s for s in read_grid(profile).measurable() if s.dataset == "cifar10"]
    networks = {spec.network for spec in specs}
    controls = {"vgg-hires", "vgg-mean2", "vgg-mean3", "vgg-att2-concat-tanh"}
    assert set(paper.table1()) | controls <= networks <= set(list_networks())
    for network in ("vgg", "vgg-hires", "vgg-mean2", "vgg-att2-concat-pc"):
        usual = [s for s in specs if s.network == network and not s.beginning()]
        assert sorted(s.seed for s in usual) == [0, 1, 2]


def test_the_laptop_grid_also_trains_a_wide_baseline_and_some_networks_for_longer():
    grid = read_grid("laptop")
    others = [s for s in grid.specs() if s not in grid.measurable() and not s.overrides]
    assert [(s.network, s.width, s.chosen_epochs(), s.seed) for s in others] == [
        *(("vgg", 0.87, 10, seed) for seed in range(3)),
        *((name, 0.25, 60, 0) for name in ("vgg", *CONTROLS, "vgg-att2-concat-pc")),
        *((name, 0.25, 60, 0) for name in ("vgg", "vgg-att2-concat-pc")),
    ]
    assert [s.recipe for s in others] == ["fast"] * 7 + ["paper"] * 2
    assert {s.dataset for s in others} == {"cifar10"}


def test_the_laptop_grid_undoes_each_choice_that_the_chapter_on_training_names():
    chapter = (ROOT / "notebooks" / "05_training.ipynb").read_text(encoding="utf-8")
    undone = [s for s in read_grid("laptop").specs() if s.overrides and s.network == "vgg"]
    assert len(undone) == chapter.count('\\"fast, ') == 6
    for spec in undone:
        assert f'\\"{spec.recipe_label()}\\": ' in chapter


def test_the_papers_grid_holds_table_2_and_all_data_sets():
    grid = read_grid("paper")
    trained = {(spec.network, spec.dataset) for spec in grid.specs()}
    for network, columns in paper.table2().items():
        for dataset, figure in columns.items():
            # rn34 and one figure are quoted by the paper itself.
            if network != "rn34" and figure is not None and "quoted" not in str(figure):
                assert (network, dataset) in trained
    transferred = {g.dataset for g in grid.measurements if g.task == "transfer"}
    assert transferred == {
        "stl10",
        "caltech101",
        "caltech256",
        "event8",
        "action40",
        "scene67",
    }


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (changed(networks={"vgg-att9": [0]}), "unknown network 'vgg-att9'"),
        (changed(networks={"vgg": []}), "at least 1 item"),
        (changed(networks={"vgg": [-1]}), "greater than or equal to 0"),
        (changed(dataset="cifar11"), "unknown data set 'cifar11'"),
        (changed(recipe="quick"), "unknown recipe 'quick'"),
        (changed(width=-1.0), "greater than 0"),
        (changed(colour="red"), "colour"),
        (changed(initial="{net}.safetensors"), "may only contain {network}, not {net}"),
        (changed(networks={"vgg": [0, 0]}), f"2 runs are called {VGG0}"),
        (changed(networks={"vgg": [0]}), "needs vgg-att-pc trained on embedded"),
        (GRID | {"profile": "huge"}, "'smoke', 'laptop', 'gpu' or 'paper'"),
        ({}, "missing: profile, weights, runs"),
        (measuring(task="fly"), "unknown task 'fly': choose one of attack, "),
        (measuring(task="query", pairs=0), "pairs: Input should be greater than"),
        (measuring(task="query", pears=5), "pears: Extra inputs are not permitted"),
        (measuring(methods=["bms"]), "methods: Extra inputs are not permitted"),
        ([1], "valid dictionary"),
        (
            GRID
            | {
                "measurements": [
                    {"task": "look", "dataset": "embedded", "trained_on": "embedded"}
                ]
            },
            "neither networks nor methods",
        ),
    ],
)
def test_a_wrong_grid_is_refused_with_its_file_and_field(grid, said, tmp_path):
    with pytest.raises(GridError) as caught:
        read_grid(written(tmp_path, grid))
    assert said in str(caught.value)
    assert "grid.yaml" in str(caught.value)


def test_a_grid_that_is_not_there_or_not_yaml(tmp_path, capsys):
    assert main(["plan", "--grid", "huge"]) == 2
    assert "name a file, or one of gpu, laptop, paper, smoke" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("runs: [")
    assert main(["plan", "--grid", str(tmp_path / "bad.yaml")]) == 2
    assert "is not YAML" in capsys.readouterr().err


def test_the_grids_say_each_run_in_words_that_train_understands():
    """What the plan gives to the command line is the spec that the grid meant.

    Of runs that differ in nothing but their seed, the one with the largest is asked about.
    """
    every = [s for p in ("smoke", "laptop", "gpu", "paper") for s in read_grid(p).specs()]
    every.sort(key=lambda spec: spec.seed)
    asked = {s.model_copy(update={"seed": 0}).model_dump_json(): s for s in every}
    assert len(asked) > 100 and max(spec.seed for spec in asked.values()) > 0
    for spec in asked.values():
        given = parse("train", planning.train_options(spec), RunSpec, OwnRecipe)
        own = {"overrides": overrides_of(given)}
        assert RunSpec(**pick(given, RunSpec), **own) == spec, spec.label()


@pytest.mark.parametrize("profile", ["laptop", "gpu", "paper"])
def test_the_grids_say_each_measurement_in_words_that_its_task_understands(profile):
    for group in read_grid(profile).measurements:
        options = TASKS[group.task].options
        methods = {"methods": group.methods} if group.methods else {}
        words = planning.options(group.settings | methods)
        assert options(**parse(group.task, words, options)) == group.options()


def test_what_is_measured_or_ships_is_one_and_not_the_last_of_several(tmp_path):
    """Runs of one network and seed may differ in width or epochs."""
    longer = GRID["runs"][0] | {"epochs": 3}
    grid = GRID | {"runs": [*GRID["runs"], longer]}
    with pytest.raises(GridError, match="2 groups ship vgg of embedded at width 0.0625"):
        read_grid(written(tmp_path, grid))
    longer["ship"] = False
    with pytest.raises(GridError, match="seed 0, and 2 runs are: say `measure: false`"):
        read_grid(written(tmp_path, grid))
    longer["measure"] = False
    steps = planned(tmp_path, grid)
    assert steps[LOOK].after == [ATT]
    assert sum(step.stage == "train" for step in steps.values()) == 6


# --------------------------------------------------------------------------- what is done


def test_from_nothing_everything_is_to_do_in_an_order_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = planned(tmp_path)
    ships = {f"ship_{network}_embedded_w0.0625" for network in ("vgg", "vgg-att-pc")}
    assert set(steps) == {VGG0, VGG1, ATT, LOOK, *ships}
    assert all(step.todo for step in steps.values())
    assert {steps[n].why for n in (VGG0, VGG1, ATT)} == {"no record"}
    assert steps["ship_vgg_embedded_w0.0625"].after == [VGG0, VGG1]
    assert steps[LOOK].after == [ATT]
    order = list(steps)
    for step in steps.values():
        assert all(order.index(before) < order.index(step.name) for before in step.after)
    assert list(tmp_path.iterdir()) == [tmp_path / "grid.yaml"]  # a plan changes nothing


def test_what_is_recorded_is_done_and_the_rest_is_not(there):
    steps = planned(there)
    assert steps[VGG0].todo and steps[VGG0].why == "no record"
    for name in (VGG1, ATT, LOOK):
        assert not steps[name].todo, steps[name].why
    assert steps[VGG1].why.startswith("recorded 20")
    assert steps[LOOK].why.startswith("measured 20")
    # Of vgg the best can be said when both are there; of the other one is all.
    assert steps["ship_vgg_embedded_w0.0625"].why == "waits for 1 of its 2 runs"
    assert steps["ship_vgg-att-pc_embedded_w0.0625"].why == "nothing ships yet"


def test_weights_are_found_in_a_folder_with_an_older_name(there):
    runs = there / "runs"
    copied = there / "copied"
    shutil.copytree(runs, copied)
    runs.unlink()
    copied.rename(runs)
    for folder in runs.glob("vgg-att-pc_*"):
        folder.rename(folder.with_name(folder.name.replace("_e2_", "_")))
    ship = planned(there)["ship_vgg-att-pc_embedded_w0.0625"]
    old = str(runs / "vgg-att-pc_embedded_w0.0625_fast_s0_")
    assert ship.todo and any(word.startswith(old) for word in ship.words)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3},
        {"train_images": 255},
        {"width": 0.125},
        {"precision": "float32"},
        {"average_gradients": True, "networks": {"vgg-att-pc": [0, 1]}},
    ],
    ids=str,
)
def test_another_spec_is_another_run(there, changes):
    grid = changed(**changes) | {"measurements": []}
    trained = [s for s in planned(there, grid).values() if s.stage == "train"]
    assert all(step.todo for step in trained)


def test_the_recipes_epochs_said_or_not_are_the_same_run(there):
    record = unseal((there / "records.jsonl").read_text().splitlines()[0])
    record["spec"]["epochs"] = 10  # the recipe's
    (there / "records.jsonl").write_text(sealed([record]))
    grid = changed(epochs=None, networks={"vgg": [1]}) | {"measurements": []}
    steps = planned(there, grid)
    assert not steps[VGG1.replace("_e2", "")].todo


def test_another_version_of_the_training_makes_runs_again(there, monkeypatch):
    version = config.TRAINING_VERSION + 1
    another_version(monkeypatch)
    steps = planned(there)
    said = f"made by training version 1; the current one is {version}"
    assert steps[VGG1].todo and steps[VGG1].why == said
    # What was measured of a run that does not count is measured again.
    assert steps[LOOK].todo and steps[LOOK].why == "its network has to be trained first"
    assert steps[LOOK].after == [ATT]
    kept = planned(there, keep=True)
    assert not kept[VGG1].todo and kept[VGG1].why == f"kept, though {said}"
    assert not kept[LOOK].todo


def test_a_version_concerns_the_networks_that_it_names(there, monkeypatch):
    another_version(monkeypatch, runs=("vgg-att-*",))
    steps = planned(there)
    assert not steps[VGG1].todo
    assert steps[ATT].todo


def test_another_content_of_the_recipe_makes_runs_again(there, monkeypatch):
    other = RECIPES["fast"].model_copy(update={"label_smoothing": 0.2})
    monkeypatch.setitem(RECIPES, "fast", other)
    step = planned(there)[VGG1]
    assert step.todo and step.why == "the recipe fast has changed"


def test_edited_texts_and_private_names_change_nothing_in_the_plan(there):
    """A copy of the package with other error texts, licences, comments and names."""
    before = planned(there)
    package = there / "copy" / "lpa_core"
    shutil.copytree(ROOT / "lpa_core", package)
    for file, old, new in (
        ("data/sources.py", r"\bCC BY\b|licen[cs]e", "terms"),
        ("networks/zoo.py", "choose one of", "take one of"),
        ("training/recipes.py", "unknown recipe", "no such recipe as"),
        ("training/checkpoint.py", "no whole weights at", "nothing usable at"),
        ("tasks/levels.py", r"\bnumbers\b", "its_numbers"),
        ("attention.py", r'\A"""', '"""Once more: '),
    ):
        text = (package / file).read_text()
        edited = re.sub(old, new, text)
        assert edited != text, file
        (package / file).write_text(edited)
    here = {k: str(v) for k, v in vars(places(there)).items() if v is not None}
    program = f"""
from pathlib import Path
import lpa_core
from lpa_core.plan import Places, make_plan, read_grid
assert {str(package)!r} in lpa_core.__file__
places = Places(**{{name: Path(place) for name, place in {here!r}.items()}})
print(make_plan(read_grid("grid.yaml"), places, "cpu").model_dump_json())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=there,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plan = Plan.model_validate_json(done.stdout)
    assert {step.name: step for step in plan.steps} == before


def test_the_laptop_grid_is_done_without_any_data(tmp_path, monkeypatch):
    """From the fingerprints in the sources: `make plan` in a fresh clone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LPA_DATA", str(tmp_path))
    planning.fingerprints.cache_clear()
    plan = make_plan(read_grid("laptop"), Places(runs=tmp_path / "runs"), "cpu")
    planning.fingerprints.cache_clear()
    # Still to be trained: the scales of u between the two initialisations, and the two
    # controls on images of full size throughout.
    open_ = r"_u[0-9.]+_s\d$|vgg-(hires|mean2)_cifar10_.*sizes=1\.0"
    assert [step.name for step in plan.todo if not re.search(open_, step.name)] == []
    assert list(tmp_path.iterdir()) == []


def test_a_grid_undoes_single_choices_of_a_recipe(there):
    """Its command trains just that, and the plan then knows that it is done."""
    grid = changed(networks={"vgg": [0]}, epochs=1, ship=False)
    plain = grid["runs"][0]
    changes = [{"sizes": [0.625, 1.0]}, {"muon_lr": None}, {"schedule": "steps"}]
    grid["runs"] += [plain | {"overrides": c, "measure": False} for c in changes]
    grid["measurements"] = []
    todo = [step for step in planned(there, grid).values() if step.stage == "train"]
    assert len(todo) == 4 and all(step.todo for step in todo)
    for step in todo[1:]:
        assert main(step.words) == 0
    done = read_records(there / "records.jsonl")[-3:]
    assert [r.spec.overrides for r in done] == changes
    left = [s.name for s in planned(there, grid).values() if s.stage == "train" and s.todo]
    assert left == ["vgg_embedded_w0.0625_fast_e1_s0"]


def test_a_grid_names_a_change_that_no_recipe_has(tmp_path):
    with pytest.raises(GridError, match="no field 'muon' to set: choose one of epochs"):
        read_grid(written(tmp_path, changed(overrides={"muon": None})))


def test_other_images_make_runs_again(there, monkeypatch):
    now = {"train": "0" * 64, "test": "1" * 64}
    monkeypatch.setattr(planning, "fingerprints", lambda dataset, data: now)
    steps = planned(there)
    assert steps[VGG1].todo
    assert steps[VGG1].why == "the train images of embedded have changed"


def test_images_that_are_not_here_are_taken_as_they_were(there, monkeypatch):
    monkeypatch.setattr(planning, "fingerprints", lambda dataset, data: None)
    assert not planned(there)[VGG1].todo


def test_a_run_that_was_broken_off_goes_on(there, monkeypatch):
    class Stop(Exception):
        pass

    def stop_after_one(epochs, network):
        if epochs == 1:
            raise Stop

    spec = read_grid(written(there, GRID)).specs()[0]
    with pytest.raises(Stop):
        run(spec, runs=there / "own", progress=False, callback=stop_after_one)
    step = planned(there, runs="own")[VGG0]
    assert step.todo and step.why == "interrupted after epoch 1 of 2: resumes"
    fresh = planned(there)[VGG0]
    assert step.hours == pytest.approx(fresh.hours / 2)
    (weights,) = (there / "own").glob("vgg_*_s0_*/checkpoint-*.safetensors")
    weights.write_bytes(b"torn")
    assert planned(there, runs="own")[VGG0].why == "no record"


def test_weights_that_are_gone_are_made_again_only_if_something_needs_them(there):
    (there / "runs").unlink()
    steps = planned(there)
    assert not steps[VGG1].todo and not steps[ATT].todo
    (there / "measured.jsonl").write_text("")
    steps = planned(there)
    assert not steps[VGG1].todo
    assert steps[ATT].todo and steps[ATT].why.startswith("its weights are not here")
    assert steps[LOOK].todo and steps[LOOK].after == [ATT]


def test_what_ships_is_the_best_of_the_recorded_runs(there, capsys):
    spec = read_grid(written(there, GRID)).specs()[0]
    run(spec, runs=there / "own", records=there / "records.jsonl", progress=False)
    for folder in (there / "runs").resolve().iterdir():
        (there / "own" / folder.name).symlink_to(folder)
    step = planned(there, runs="own")["ship_vgg_embedded_w0.0625"]
    assert step.todo and step.after == []
    assert main(step.words) == 0
    errors = {
        r.id: r.metrics["test_error"]
        for r in read_records(there / "records.jsonl")
        if r.spec.network == "vgg"
    }
    facts = json.loads((there / "shipped/vgg_embedded_w0.0625.json").read_text())
    assert facts["run"] == min(errors, key=errors.get) and len(errors) == 2
    assert not planned(there, runs="own")["ship_vgg_embedded_w0.0625"].todo
    # Another becomes the best: it is to ship; what is best already stays as it is.
    lines = [unseal(x) for x in (there / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["metrics"]["test_error"] *= 0.5 if line["id"] != facts["run"] else 1.0
    (there / "records.jsonl").write_text(sealed(lines))
    step = planned(there, runs="own")["ship_vgg_embedded_w0.0625"]
    assert step.todo and step.why == "another run is now the best"
    before = (there / "shipped/vgg_embedded_w0.0625.json").read_bytes()
    assert main(step.words) == 0
    after = (there / "shipped/vgg_embedded_w0.0625.json").read_bytes()
    assert json.loads(after)["run"] != json.loads(before)["run"]
    capsys.readouterr()
    assert main(step.words) == 0
    assert "is the best already" in capsys.readouterr().out
    assert (there / "shipped/vgg_embedded_w0.0625.json").read_bytes() == after


def test_a_run_without_a_record_does_not_ship(there, capsys):
    weights = sorted(map(str, there.glob("runs/*/weights.safetensors")))
    (there / "none.jsonl").write_text("")
    words = ["export", *weights, "out.safetensors", "--records", "none.jsonl"]
    assert main(words) == 2
    assert "none.jsonl has no record of the run that made" in capsys.readouterr().err
    assert not (there / "out.safetensors").exists()


def test_birds_wait_for_the_weights_that_they_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid("laptop"), places(tmp_path), "cpu")
    steps = {step.name: step for step in plan.steps}
    assert steps["vgg_cub50_w0.25_fast_e60_s0"].after == ["ship_vgg_cifar10_w0.25"]
    assert "--initial" in steps["vgg_cub50_w0.25_fast_e60_s0"].words


def test_another_version_of_a_task_makes_its_measurements_again(there, monkeypatch):
    monkeypatch.setitem(TASKS, "look", replace(TASKS["look"], version=2))
    step = planned(there)[LOOK]
    assert step.todo and step.why == "made by version 1 of look; the current one is 2"
    assert not planned(there, keep=True)[LOOK].todo


@pytest.mark.parametrize(
    ("settings", "done"),
    [
        ({}, True),
        ({"pairs": 999}, False),
        ({"layer": "layer7"}, False),
        ({"seed": 1}, False),
    ],
)
def test_every_setting_of_a_task_counts_stated_or_not(there, settings, done):
    line = unseal((there / "measured.jsonl").read_text().strip())
    default = {"pairs": 1000, "layer": "layer10", "seed": 0}
    line |= {"task": "query", "settings": default | settings}
    (there / "measured.jsonl").write_text(sealed([line]))
    step = planned(there, measuring(task="query"))[LOOK.replace("look", "query")]
    assert step.todo is not done


def test_a_part_of_the_images_is_not_the_whole_set(there):
    step = planned(there, measuring(images=None))[LOOK.replace("-64-images", "")]
    assert step.why == "not measured yet"


def test_methods_without_a_network_are_a_step_of_their_own(there):
    steps = planned(there, measuring(task="segment", methods=["bms", "centre"]))
    step = steps["segment-embedded-64-images_bms-centre"]
    assert step.todo and step.why == "not measured yet"
    at = step.words.index("--methods")
    assert step.words[at + 1 : at + 3] == ["bms", "centre"]
    # The network's own step measures no method again.
    words = steps[LOOK.replace("look", "segment")].words
    assert words[words.index("--methods") + 1].startswith("--")


def test_other_images_or_settings_are_another_measurement(there):
    grid = json.loads(json.dumps(GRID))
    grid["measurements"][0]["images"] = 63
    name = LOOK.replace("64", "63")
    assert planned(there, grid)[name].why == "not measured yet"


# --------------------------------------------------------------------------------- cost


def test_hours_are_epochs_times_images_over_images_a_second(there):
    (record,) = [
        r for r in read_records(there / "records.jsonl") if r.spec.network == "vgg"
    ]
    step = planned(there)[VGG0]
    assert step.hours == pytest.approx(2 * 256 / record.images_per_second / 3600)
    assert step.measured_on == record.device


def test_another_network_is_estimated_by_its_multiply_adds(there):
    from lpa_core.networks import build_network
    from lpa_core.networks.cost import multiply_adds

    def work(name):
        return multiply_adds(build_network(name, num_classes=10, width=0.0625))

    records = {r.spec.network: r for r in read_records(there / "records.jsonl")}
    grid = changed(networks={"vgg-att3-concat-pc": [0]}) | {"measurements": []}
    (step,) = [s for s in planned(there, grid).values() if s.stage == "train"]
    near = records["vgg-att-pc"]  # nearer to it than vgg
    speed = near.images_per_second * work("vgg-att-pc") / work("vgg-att3-concat-pc")
    assert step.hours == pytest.approx(2 * 256 / speed / 3600)


def test_where_nothing_was_measured_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = planned(tmp_path)
    assert {step.hours for step in steps.values()} == {None}
    assert "4 without an estimate" in total(steps.values())


def test_this_device_counts_before_others(there):
    lines = [unseal(x) for x in (there / "records.jsonl").read_text().splitlines()]
    fast = [x | {"device": "a fast one", "images_per_second": 1e9} for x in lines]
    (there / "records.jsonl").write_text(sealed([*fast, *lines]))
    assert planned(there)[VGG0].hours > 1e-6
    (there / "records.jsonl").write_text(sealed(fast))
    assert planned(there)[VGG0].measured_on == "a fast one"


def test_a_measurement_is_estimated_by_what_it_took(there):
    (measured,) = read_measurements(there / "measured.jsonl")
    grid = json.loads(json.dumps(GRID))
    grid["measurements"][0]["images"] = 32
    step = planned(there, grid)[LOOK.replace("64", "32")]
    assert step.hours == pytest.approx(measured.seconds / 2 / 3600)


# ------------------------------------------------------------------------ plan and table


def test_the_plan_is_shown_and_written(there, capsys):
    marker = there / "steps" / "train" / VGG0
    marker.parent.mkdir(parents=True)
    marker.touch()
    done = marker.with_name(VGG1)
    done.touch()
    words = ["plan", "--grid", str(written(there, GRID)), "--runs", "runs"]
    words += ["--records", "records.jsonl", "--measurements", "measured.jsonl"]
    assert main([*words, "--write", "plan.json", "--markers", "steps"]) == 0
    out = capsys.readouterr().out
    assert VGG0 in out and VGG1 not in out
    assert "6 steps: 1 to train, 0 to measure, 2 to ship: about 0.0 hours" in out
    plan = json.loads((there / "plan.json").read_text())
    assert next(s["name"] for s in plan["steps"] if s["todo"]) == VGG0
    assert not marker.exists() and done.exists()
    assert main([*words, "--all"]) == 0
    assert VGG1 in capsys.readouterr().out


def test_a_finished_grid_leaves_nothing(there):
    grid = changed(networks={"vgg": [1], "vgg-att-pc": [0]}) | {"weights": ""}
    plan = make_plan(read_grid(written(there, grid)), places(there), "cpu")
    assert plan.todo == [] and total(plan.steps) == "nothing is left to do"
    table = plan_table(plan)
    assert set(table.state) == {"done"} and len(table) == 3
    write_plan(plan, there / "new" / "plan.json", there / "steps")
    assert (there / "new" / "plan.json").exists()


def test_the_newest_record_of_a_seed_counts_once(there):
    from lpa_core.results import summarise

    (record,) = [
        r for r in read_records(there / "records.jsonl") if r.spec.network == "vgg"
    ]
    whole = record.model_copy(
        update={"spec": record.spec.model_copy(update={"train_images": None})}
    )
    later = whole.model_copy(
        update={
            "id": "again",
            "device": "another",
            "started": whole.started + timedelta(hours=1),
            "metrics": whole.metrics | {"test_error": 12.5},
        }
    )
    for order in ([whole, later], [later, whole]):
        (row,) = summarise(order).itertuples()
        assert row.n == 1 and row.test_error == 12.5 and math.isnan(row.std)


def test_of_two_records_of_a_run_the_plan_takes_the_newest(there):
    """Its weights are looked for, and its day is what the plan says."""
    (record,) = [
        r for r in read_records(there / "records.jsonl") if r.spec.network == "vgg"
    ]
    later = record.model_copy(update={"started": record.started + timedelta(days=3)})
    for first, second in ((record, later), (later, record)):
        lines = (r.model_dump(mode="json") for r in (first, second))
        (there / "records.jsonl").write_text(sealed(lines))
        assert planned(there)[VGG1].why == f"recorded {later.started:%Y-%m-%d}"


def test_every_grid_ships_with_the_package():
    assert {p.stem for p in GRIDS.glob("*.yaml")} == {"smoke", "laptop", "gpu", "paper"}
