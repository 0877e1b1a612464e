"""What a chapter begins with: right parameters pass, wrong ones stop it with a sentence."""

import random
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lpa_core.notebook import PROFILES, ParameterError, begin, glue
from lpa_core.training import RunSpec

TYPES = {
    "profile": str,
    "network": str,
    "seed": int,
    "width": float,
    "images": int,
    "retrain": bool,
    "records": str,
}
VALUES = {
    "profile": "smoke",
    "network": "vgg-att2-concat-pc",
    "seed": 0,
    "width": 0.25,
    "images": 8,
    "retrain": False,
    "records": "",
}


@pytest.fixture(autouse=True)
def _same_style():
    """`begin` sets the style of all figures; other tests need not see it."""
    with plt.rc_context():
        yield


def chapter(injected="", **changes):
    """The globals of a notebook: its parameters, and the cells that ran."""
    cells = ["", "import lpa_core", "profile: str = 'smoke'"]
    cells += [f"# Parameters\n{injected}"] if injected else []
    return {"__annotations__": TYPES, "In": cells, "np": np, **VALUES, **changes}


def test_right_parameters_pass_and_are_said(capsys):
    settings = begin(chapter(profile="laptop", seed=7, retrain=True))
    assert settings.parameters == VALUES | {"profile": "laptop", "seed": 7, "retrain": True}
    assert settings.profile == "laptop"
    said = capsys.readouterr().out
    assert "profile = 'laptop'" in said
    assert "retrain = True" in said
    assert f"computing on {settings.device}" in said


def test_a_whole_number_passes_for_a_width(capsys):
    assert begin(chapter(width=1)).parameters["width"] == 1


def test_the_seed_sets_every_generator(capsys):
    draws = []
    for seed in (3, 3, 4):
        begin(chapter(seed=seed))
        legacy = np.random.random()  # noqa: NPY002 - libraries may draw from it
        draws.append((random.random(), legacy, torch.rand(1).item()))
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("retrain", "false", "valid boolean"),
        ("retrain", 0, "valid boolean"),
        ("seed", "3", "valid integer"),
        ("seed", 3.5, "valid integer"),
        ("seed", True, "valid integer"),
        ("seed", -1, "greater than or equal to 0"),
        ("width", "0.25", "valid number"),
        ("width", 0.0, "greater than 0"),
        ("profile", "huge", "'smoke', 'laptop', 'gpu' or 'paper'"),
        ("profile", 1, "'smoke', 'laptop', 'gpu' or 'paper'"),
        ("network", "vgg-att4", "choose one of vgg, "),
        ("network", None, "valid string"),
        ("images", 0, "greater than or equal to 1"),
        ("images", 101, "less than or equal to 100"),
        ("records", 5, "valid string"),
    ],
)
def test_a_wrong_value_stops_with_what_it_got_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ParameterError) as caught:
        begin(chapter(**{name: value}))
    said = str(caught.value)
    assert said.startswith(f"{name}: ")
    assert allowed in said
    assert f"(got {value!r})" in said
    assert "\n" not in said


def test_an_injected_parameter_that_the_chapter_lacks_stops_it():
    """Papermill only warns of one, and runs the chapter with the default."""
    with pytest.raises(ParameterError) as caught:
        begin(chapter('profile = "smoke"\nnetwrok = "vgg"\n', netwrok="vgg"))
    said = str(caught.value)
    assert "unknown parameter 'netwrok'" in said
    assert "profile, network, seed, width, images, retrain, records" in said


def test_an_injected_parameter_that_the_chapter_has_passes(capsys):
    settings = begin(chapter('network = "vgg"\nseed = 5\n', network="vgg", seed=5))
    assert settings.parameters["network"] == "vgg"
    assert settings.parameters["seed"] == 5


def test_names_of_other_cells_are_no_parameters(capsys):
    begin(chapter() | {"In": ["", "result = 3\n# Parameters\nother = 4"], "result": 3})


def of_python_3_14(**values):
    """The same where annotations are evaluated when asked for (PEP 649).

    There is no `__annotations__`; of a notebook `__annotate__` knows the last cell alone.
    """
    cells = [
        "",
        "%pip install something",
        "profile: str = 'smoke'  # the size\nseed: int = 0",
        "# Parameters\nseed = 5",
    ]
    return {
        "In": cells,
        "__annotate__": lambda how: {"result": int},
        **{"profile": "smoke", "seed": 5},
        **values,
    }


def test_parameters_are_found_where_annotations_wait_for_their_use(capsys):
    """2: on Python 3.14 a chapter lost every parameter and every check."""
    assert begin(of_python_3_14()).parameters == {"profile": "smoke", "seed": 5}
    with pytest.raises(ParameterError, match=r"seed: .*valid integer \(got 'five'\)"):
        begin(of_python_3_14(seed="five"))
    with pytest.raises(ParameterError, match="unknown parameter 'sede'"):
        begin(of_python_3_14(In=["", "profile: str = ''", "# Parameters\nsede = 5"]))
    module = {"__annotate__": lambda how: {"profile": str}, "profile": "huge"}
    with pytest.raises(ParameterError, match="profile: "):
        begin(module)


def test_a_name_of_ones_own_may_be_annotated_before_begin_is_run_again(capsys):
    """10: it ended in an error of pydantic."""
    namespace = chapter()
    first = begin(namespace).parameters
    namespace["__annotations__"] = TYPES | {"mine": np.ndarray, "other": "Whatever"}
    namespace |= {"mine": np.zeros(3), "other": print}
    assert begin(namespace).parameters == first
    later = of_python_3_14()
    begin(later)
    later["In"].append("mine: 'Whatever' = print")
    assert begin(later).parameters == {"profile": "smoke", "seed": 5}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_each_profile_is_a_run(profile, capsys):
    settings = begin(chapter(profile=profile))
    spec = settings.spec(network="vgg", seed=2)
    assert isinstance(spec, RunSpec)
    assert (spec.network, spec.seed) == ("vgg", 2)
    assert spec.dataset == ("embedded" if profile == "smoke" else "cifar10")
    assert spec.width == {"smoke": 0.125, "laptop": 0.25, "gpu": 1.0, "paper": 1.0}[profile]
    assert spec.recipe == ("paper" if profile == "paper" else "fast")


def test_without_the_books_builder_a_number_for_the_text_is_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    glue("share", 0.123456)
    glue("says", "cat")
    assert capsys.readouterr().out == "share: 0.1235\nsays: cat\n"
