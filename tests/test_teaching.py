"""What a chapter owes its reader: a head that says what for, exercises whose checks help.

The checks are tried on what students write: the folded solutions, and mistakes.
"""

import ast
import json
import math
import re
from pathlib import Path

import nbformat
import pytest
import teacher_pack
import yaml
from teaching_pages import write_exam

from lpa_core import list_networks
from lpa_core.data import list_datasets
from lpa_core.training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
VERBS = {
    "attach", "check", "choose", "compare", "compute", "explain", "judge", "kill", "load",
    "measure", "name", "notice", "prove", "put", "read", "say", "score", "see", "show",
    "spread", "take", "tell", "train", "turn", "write",
}  # fmt: skip


def cells(chapter: str) -> list[tuple[str, str]]:
    """(kind, source) of a chapter's cells."""
    stored = json.loads(NOTEBOOKS[chapter].read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in stored]


def prose(chapter: str) -> str:
    return "\n\n".join(source for kind, source in cells(chapter) if kind == "markdown")


# ---------------------------------------------------------------------- head and last words


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_says_what_for_how_long_and_what_it_takes(chapter):
    head = cells(chapter)[0][1]
    goal = re.search(r"\*\*After this chapter you can\*\* (.+?)\.\n\n", head, re.DOTALL)
    phrases = re.split(r"[,;] (?:and |or )?| and ", re.sub(r"\s+", " ", goal[1]))
    assert phrases[0].split()[0] in VERBS
    assert sum(phrase.split()[0] in VERBS for phrase in phrases) >= 2, phrases
    table = [
        [field.strip() for field in row.strip("| \n").split("|")]
        for row in re.findall(r"^\|.+\|$", head, re.MULTILINE)
    ]
    assert table[0] == ["profile", "what runs", "time and hardware"]
    profiles = [name for row in table[2:] for name in row[0].split(", ")]
    assert profiles == ["smoke", "laptop", "gpu", "paper"]
    assert all(len(row) == 3 and all(row) for row in table[2:])
    needs = re.search(r"^You need (.+)", head, re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)", needs[1])
    assert links
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    order = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    appendix = next(part for part in toc["parts"] if part["caption"] == "Appendix")
    before = order[: order.index(f"notebooks/{chapter}")]
    before += [entry["file"] for entry in appendix["chapters"]]
    earlier = [f"{Path(page).name}.ipynb" for page in before]
    assert all(link in earlier or link.startswith("https://") for link in links), links


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_sums_up_and_leads_to_the_next(chapter):
    last = cells(chapter)[-1][1]
    summary = last[last.index("\n## Summary\n") :]
    assert len(re.findall(r"^\* .+", summary, re.MULTILINE)) >= 3
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    following = pages[pages.index(f"notebooks/{chapter}") + 1]
    link = re.search(r"\*\*Next:\*\*.*?\]\(([^)]+)\)", summary, re.DOTALL)[1]
    assert "**Further reading:**" in summary
    if following.startswith("notebooks/"):
        assert f"notebooks/{link}" == f"{following}.ipynb"
    else:  # the last chapter; what follows is for reference
        assert re.fullmatch(r"\.\./book/\w+\.md", link)


# -------------------------------------------------------------------------------- exercises


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_every_exercise_has_a_folded_solution(chapter):
    text = prose(chapter)
    asked = re.findall(r"\{exercise\} (\S.*)\n:label: (ex-[\w-]+)\n\n\S", text)
    assert len(asked) == text.count("{exercise}") >= 2
    answered = re.findall(r"\{solution\} (ex-[\w-]+)\n:class: dropdown\n\n\S", text)
    assert [label for _, label in asked] == answered


def exercises(chapter: str) -> list[tuple[dict, str, str, str]]:
    """Of each exercise in code: names up to it, the check, the function, the solution."""
    listed, found = cells(chapter), []
    for index, (kind, source) in enumerate(listed):
        checks = re.findall(r"^def (check_\w+)\(function\)", source, re.MULTILINE)
        if kind != "code" or not checks:
            continue
        (check,) = checks
        name = check.removeprefix("check_")
        assert source.rstrip().endswith(f"print({check}({name}))")
        before = [text for kind, text in listed[:index] if kind == "code"]
        namespace = preceding_names(before)
        exec(source, namespace)
        folded = listed[index + 1][1]
        solution = re.search(r"^```python\n(.*?)^```", folded, re.MULTILINE | re.DOTALL)[1]
        assert f"def {name}(" in solution
        found.append((namespace, check, name, solution))
    assert found, f"{chapter}: no exercise in code"
    return found


def preceding_names(sources: list[str]) -> dict:
    """Imports, functions and plain arrays of the cells before an exercise."""
    namespace: dict = {}
    for source in sources:
        kept = [
            node
            for node in ast.parse(source.replace("display(", "print(")).body
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
            or (
                isinstance(node, ast.Assign)
                and all(
                    n.id == "np" for n in ast.walk(node.value) if isinstance(n, ast.Name)
                )
            )
        ]
        exec(compile(ast.Module(kept, []), "<cells>", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_solutions_pass_their_own_checks(chapter):
    """What is handed out is not written yet; the folded solution in its place is right."""
    for namespace, check, name, solution in exercises(chapter):
        assert namespace[check](namespace[name]) == "not written yet"
        exec(solution, namespace)
        assert namespace[check](namespace[name]).startswith("right"), name


# What students write, and a part of what they are told: (code, told), or (old, new, told)
# for the folded solution with `new` in place of `old`.
MISTAKES = {
    "effective_number": [
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum()", "that is its entropy"),
        ("lambda a: np.exp((a[a > 0] * np.log(a[a > 0])).sum())", "look at the sign"),
        ("lambda a: np.exp(-(a[a > 0] * np.log2(a[a > 0])).sum())", "different bases"),
        ("lambda a: np.exp(-(a * np.log(a)).sum())", "where there is no attention"),
        ("lambda a: np.exp(-(a * np.log(a + 1e-9)).sum()) / a.size", "a share of the"),
        ("lambda a: (a > 0).sum()", "with little attention counts less"),
        ("lambda a: np.exp(-(a * np.log(a + 1e-9)).sum(axis=0))", "one number is wanted"),
    ],
    "tanh_score": [
        ("lambda local, g, u: np.tanh(np.einsum('c,chw->hw', u, local + g[:, None, None]))",
         "which numbers go through the tanh"),
        ("lambda local, g, u: np.einsum('c,chw->hw', u, local + g[:, None, None])",
         "another query gives the same map"),
        ("lambda local, g, u: np.einsum('c,chw->hw', u, np.tanh(local))",
         "another query gives the same map"),
        ("lambda local, g, u: np.einsum('c,chw->hw', g, np.tanh(local + u[:, None, None]))",
         "with the opposite u"),
        ("lambda local, g, u: u[:, None, None] * np.tanh(local + g[:, None, None])",
         "scores have shape (3, 3)"),
    ],
    "early_share": [
        ("lambda n: sum(x.multiply_adds for x in layer_table(n)[:6]) / multiply_adds(n)",
         "is less than they take"),
        ("lambda n: sum(x.multiply_adds for x in layer_table(n)[:9]) / multiply_adds(n)",
         "is more than they take"),
        ("lambda n: sum(x.parameters for x in layer_table(n)[:7]) / count_parameters(n)",
         "their share of the parameters"),
        ("lambda n: 100 * sum(x.multiply_adds for x in layer_table(n)[:7]) "
         "/ multiply_adds(n)", "between 0 and 1"),
        ("lambda n: sum(x.multiply_adds for x in layer_table(n)[:7])", "between 0 and 1"),
    ],
    "same_contrast": [
        ("lambda x: 55 * (c := x - x.mean(axis=(1, 2), keepdims=True)) "
         "/ max(np.sqrt((c**2).sum()), 1e-9)", "not one for each channel"),
        ("lambda x: 55 * x / np.sqrt((x**2).sum())", "the mean over all channels"),
        ("lambda x: 55 * (x - x.mean()) / x.std()", "the norm, the root of"),
        ("lambda x: 55 * (c := x - x.mean()) / np.abs(c).sum()", "the norm, the root of"),
        ("lambda x: 55 * (c := x - x.mean()) / np.sqrt((c**2).sum())", "of one colour"),
        ("lambda x: (55 * (x - x.mean()) / x.std()).mean(axis=0)", "shape should stay"),
    ],
    "smoothed_target": [
        ("lambda label, k, s: [1 - s if i == label else s / (k - 1) for i in range(k)]",
         "among how many classes"),
        ("lambda label, k, s: [s / k + (1 - s) * (i == label + 1) for i in range(k)]",
         "should be largest at 2"),
        ("lambda label, k, s: [s / k + (i == label) for i in range(k)]", "sum to one"),
        ("lambda label, k, s: [float(i == label) for i in range(k)]", "with nothing"),
        ("lambda label, k, s: [s / 10 + (1 - s) * (i == label) for i in range(10)]",
         "4 numbers that sum to one"),
    ],
    "standard_error": [
        ("lambda e: np.std(e) / len(e) ** 0.5", "nearly: this is a sample"),
        ("lambda e: np.std(e, ddof=1)", "so far apart are single runs"),
        ("lambda e: np.std(e, ddof=1) / len(e)", "and yours is a quarter"),
        ("lambda e: np.var(e, ddof=1)", "in squared per cent"),
        ("lambda e: np.std(e, ddof=1) / (len(e) - 1) ** 0.5", "times as large"),
    ],
    "avoided": [
        ("lambda before, after: before - after", "is in points"),
        ("lambda before, after: (before - after) / after", "whose errors are the whole"),
        ("lambda before, after: (after - before) / before", "more errors than before"),
        ("lambda before, after: after / before", "is what is left"),
        ("lambda before, after: 100 * (before - after) / before", "the share is 0.5"),
    ],
    "listens": [
        ("lambda score: bool((score(x := torch.randn(1, 8, 5, 5), torch.randn(1, 8)) "
         "- score(x, torch.randn(1, 8))).abs().max() > 1e-4)", "pc is True (its scores"),
        ("lambda score: bool((score(x := torch.randn(1, 8, 5, 5), torch.randn(1, 8))"
         ".softmax(0) - score(x, torch.randn(1, 8)).softmax(0)).abs().max() > 1e-4)",
         "dp is False (give it two queries"),
        ("lambda score: True", "pc is True"),
    ],
    "width_for": [
        ("lambda b: b / multiply_adds(build_network('vgg', num_classes=10))",
         "if both of its sides double"),
        ("lambda b: (b / multiply_adds(build_network('vgg', num_classes=10))) ** (1 / 3)",
         "% too little"),
        ("lambda b: 3.5", "for the budget of vgg you say 3.5"),
    ],
    "step_behind": [
        ("lambda z, slope, eps, m, s: z + eps / 255 * slope.sign()", "the image moves by"),
        ("lambda z, slope, eps, m, s: z + eps / 255 / s[:, None, None] * slope.sign()",
         "leaves [0, 1]"),
        ("lambda z, slope, eps, m, s: torch.maximum(torch.minimum(z - eps / 255 "
         "/ s[:, None, None] * slope.sign(), ((1 - m) / s)[:, None, None]), "
         "(-m / s)[:, None, None])", "not the direction"),
        ("lambda z, slope, eps, m, s: (z + eps / 255 / s[:, None, None] * slope.sign())"
         ".clamp(0, 1)", "the image moves by"),
        ("lambda z, slope, eps, m, s: z.mean(dim=1)", "the shape should stay"),
    ],
    "hinge": [
        ("lambda score, yes: max(0.0, 1 - (1 if yes else -1) * score)", "has its square"),
        ("lambda score, yes: max(0.0, 1 - yes * score) ** 2", "costs nothing"),
        ("lambda score, yes: max(0.0, -(1 if yes else -1) * score) ** 2", "margin of 1"),
        ("lambda score, yes: max(0.0, 1 + (1 if yes else -1) * score) ** 2",
         "on the right side, costs nothing"),
        ("lambda score, yes: (1 - (1 if yes else -1) * score) ** 2", "costs nothing"),
        ("lambda score, yes: max(0.0, 1 - score) ** 2 if yes else 0.0", "what is y here"),
    ],
    "best_cut": [
        ("lambda v, t: max(jaccard(v > cut, t) for cut in np.unique(v))",
         "may be marked whole you return 0.000 (some cut reaches more)"),
        ("lambda v, t: jaccard(v > v.mean(), t)", "some cut reaches more"),
        ("lambda v, t: max(jaccard(m, t) for c in [-np.inf, *np.unique(v)] "
         "for m in (v > c, v <= c))", "upside down you return 1.000 (no cut reaches that)"),
    ],
    "steered": [
        ("lambda old, local, d: old * np.exp(local @ d)", "your map sums to"),
        ("lambda old, local, d: (e := np.exp(local @ d)) / e.sum()", "whatever the old"),
        ("lambda old, local, d: (e := old * np.exp(-local @ d)) / e.sum()", "yours lose"),
        ("lambda old, local, d: (e := old + np.exp(local @ d)) / e.sum()", "another map"),
        ("lambda old, local, d: old[:, None] * np.exp(local * d)", "not (6,)"),
    ],
    "sharpness": [
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum()", "a flat map has 1"),
        ("lambda a: (a[a > 0] * np.log(a[a > 0])).sum() / np.log(a.size)", "is below 0"),
        ("lambda a: -(a * np.log(a)).sum() / np.log(a.size)", "0 log 0"),
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum() / np.log(len(a))",
         "yours 2.000"),
        ("lambda a: 1 - (a.max() - a.min()) if a.max() < 1 else 0.0", "wrong between them"),
    ],
    "welch": [
        (welch := "lambda a, b, d=1, z=1.96: ((m := np.mean(a) - np.mean(b)) - (h := z * "
         "(np.var(a, ddof=d) / len(a) + np.var(b, ddof=d) / len(b)) ** 0.5), m + h)",
         "times as wide"),
        (welch.replace("d=1", "d=0"), "what does a variance divide by"),
        (welch.replace("a, b, d", "b, a, d"), "the first less the second"),
        (welch.replace("z=1.96", "z=-4"), "the lower end comes first"),
        ("np.sqrt(sum(parts))", "np.sqrt(sum(parts) / 2)", "times as wide"),
        ("stats.t.ppf(0.975, df)", "stats.t.ppf(0.95, df)", "times as wide"),
        ("stats.t.ppf(0.975, df)", "stats.t.ppf(0.975, 5)", "how many degrees of freedom"),
    ],
    "attend_to": [
        ("lambda q, k, v: F.softmax(torch.tensor(k @ q), dim=0).numpy() @ v", "not scaled"),
        ("lambda q, k, v: k @ q @ v / 3", "should sum to one"),
        ("lambda q, k, v: np.full(5, 1 / 5)", "go through the softmax"),
        ("lambda q, k, v: 1.0", "one vector (5,) is wanted"),
    ],
    "my_backbone": [
        ("lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 10))",
         "features"),
        ("lambda: torch.nn.Sequential(OrderedDict(features=torch.nn.Conv2d(3, 8, 3, "
         "padding=1), pool=torch.nn.AdaptiveAvgPool2d(1), flat=torch.nn.Flatten(), "
         "classifier=torch.nn.Linear(8, 10)))", "its map has 32x32"),
        ("lambda: torch.nn.Sequential(OrderedDict(features=torch.nn.Conv2d(3, 8, 3, "
         "stride=2, padding=1), pool=torch.nn.AdaptiveAvgPool2d(1)))", "linear"),
    ],
    "identity": [
        ("lambda spec, f, c: hashlib.sha256(json.dumps([spec, f, c]).encode())"
         ".hexdigest()[:16]", "in another order"),
        ("lambda spec, f, c: hashlib.sha256(json.dumps([spec, f, c], sort_keys=True)"
         ".encode()).hexdigest()", "16 hexadecimal digits are wanted"),
        ("lambda spec, f, c: hashlib.sha256((json.dumps(spec, sort_keys=True) + f)"
         ".encode()).hexdigest()[:16]", "does all of it go in"),
        ("lambda spec, f, c: hashlib.sha256((json.dumps(spec, sort_keys=True) + f + c)"
         ".encode()).hexdigest()[:16]", "where does one end"),
    ],
    "estimate": [
        ("softmax(dim=1)", "softmax(dim=0)", "a softmax over what"),
        ("attention = scores.flatten(1).softmax(dim=1).view_as(scores)",
         "attention = scores.softmax(dim=1)", "yours sum to"),
        ("attention = scores.flatten(1).softmax(dim=1).view_as(scores)",
         "attention = scores", "has your map been through"),
        ("attention = scores.flatten(1).softmax(dim=1).view_as(scores)",
         "attention = (e := scores.exp()) / e.sum(dim=(1, 2), keepdim=True)", "not finite"),
        ("local), attention", "local), attention.flatten(1)", "map should be (2, 3, 4)"),
        (", local, g)", ", local, g / 5**0.5)", "sum to one but are others"),
        ("attention, local), attention", "attention, local) / 12, attention",
         "0.08 times as long"),
        ("attention, local), attention", "attention, local)", "two things are wanted"),
        ("attention, local), attention", "attention, local).sum(dim=1), attention",
         "the descriptor should be (2, 5)"),
    ],
    "att2": [
        ("n in (7, 10, 13, 14, 15)", "n in (2, 4, 7, 10, 13)", "16x16 positions"),
        ("n in (7, 10, 13, 14, 15)", "n in (7, 10, 13)", "shapes do not fit"),
        ("n in (10, 13)", "n in (10, 12, 13)", "shapes do not fit"),
        ("dim=1)), maps", "dim=1)), {}", "layers 10 and 13 are wanted"),
        ("softmax(dim=1)", "softmax(dim=0)", "do not sum to one"),
        ("g = layer[16](x.flatten(1))", "g = x.flatten(1)", "is g what layer 16 gives"),
        ("torch.cat(descriptors, dim=1)", "torch.cat(descriptors[::-1], dim=1)",
         "in which order"),
        ("torch.cat(descriptors, dim=1)", "torch.cat([g, g], dim=1)", "the classifier see"),
        ("torch.cat(descriptors, dim=1)", "g", "shapes do not fit"),
    ],
    "my_fgsm": [
        ("x + eps / 255", "x - eps / 255", "goes down the loss"),
        ("eps / 255 *", "eps *", "values move by"),
        ("slope.sign()", "slope", "values move by"),
        (".clamp(0, 1)", "", "the image goes from"),
        ("(slope,) = torch.autograd.grad(loss, x)", "loss.backward(); slope = x.grad",
         "whose gradient"),
        ("labels)\n", "network(x).argmin(dim=1))\n", "the gradient of which loss"),
        ("return (x", "x.data += 0.01; return (x", "values move by"),
        ("x = x.detach().clone()", "x += 0.001; x = x.detach().clone()", "have changed"),
        (".clamp(0, 1).detach()", ".clamp(0, 1)", "graph of gradients"),
    ],
    "otsu_cut": [
        ("lambda v: v.mean()", "of the variance"),
        ("lambda v: np.median(v)", "of the variance"),
        ("lambda v: v > 0.5", "one number is wanted"),
        ("lambda v: v.max()", "are not parted"),
        ("lambda v: max(np.unique(v)[:-1], key=lambda t: (v[v > t].mean() "
         "- v[v <= t].mean()) ** 2)", "are both shares"),
        ("lambda v: 0.5", "of the variance"),
    ],
    "overlap": [
        ("lambda m, t: 2 * (m & t).sum() / max(m.sum() + t.sum(), 1)", "Dice"),
        ("lambda m, t: (m == t).mean()", "positions that agree"),
        ("lambda m, t: (m & t).sum() / t.sum()", "share of the true mask"),
        ("lambda m, t: (m & t).sum() / (m.sum() + t.sum())", "counted once"),
        ("lambda m, t: (m & t).sum() / (m | t).sum()", "two empty masks agree"),
        ("lambda m, t: (m & t).sum() / (u.sum() if (u := m | t).any() else 1)",
         "two empty masks agree"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_checks_say_what_is_wrong_and_not_what_is_right(chapter):
    for namespace, check, name, solution in exercises(chapter):
        exec(
            "import hashlib\nfrom collections import OrderedDict\nimport torch\n"
            "import torch.nn.functional as F",
            namespace,
        )
        assert len(MISTAKES[name]) >= 2
        for *wrong, told in MISTAKES[name]:
            said = namespace[check](written(wrong, name, solution, namespace))
            assert told in said, f"{wrong}\n{said}"
            assert not said.startswith(("right", "not written"))
            for line in solution.splitlines()[1:]:
                assert len(line.strip()) < 12 or line.strip() not in said


def written(wrong: list[str], name: str, solution: str, namespace: dict):
    """What a student wrote: a lambda, or the solution with one part in place of another."""
    if len(wrong) == 1:
        return eval(wrong[0], namespace)
    old, new = wrong
    assert old in solution, f"{name}: the solution has no {old!r} any more"
    exec(solution.replace(old, new), own := dict(namespace))
    return own[name]


# -------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_has_questions_of_all_kinds_with_right_answers(chapter):
    taught = yaml.safe_load((ROOT / "teaching/chapters.yml").read_text(encoding="utf-8"))
    listed = taught[chapter]["questions"]
    assert 8 <= len(listed) <= 12
    assert {question["kind"] for question in listed} == {"compute", "explain", "judge"}
    for question in listed:
        assert question["answer"]
        assert ("check" in question) == (question["kind"] == "compute"), question["ask"]
        if "check" in question:
            assert eval(question["check"], vars(math)), question["ask"]


# ------------------------------------------------------------------------------------ Colab


def test_every_chapter_installs_lpa_core_in_the_same_way():
    """However the cell is laid out: only where it is missing, and torch is not named."""
    first = {ast.dump(ast.parse(cells(chapter)[1][1])) for chapter in NOTEBOOKS}
    assert len(first) == 1
    assert "torch" not in first.pop()
    for chapter, path in NOTEBOOKS.items():
        stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tags = [cell["metadata"].get("tags", []) for cell in stored]
        assert ["colab" in names for names in tags].index(True) == 1, chapter


# ------------------------------------------------------------------------ exam and projects

EXAM = yaml.safe_load((ROOT / "teaching/exam.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", EXAM["tasks"], ids=lambda task: task["title"])
def test_a_task_says_what_earns_its_points(task):
    assert sum(points for points, _ in task["earns"]) == task["points"]
    assert all(what.strip() for _, what in task["earns"])
    assert len(task["misconceptions"]) >= 2
    assert all(said and reply for said, reply in task["misconceptions"])
    if "check" in task:
        assert eval(task["check"], vars(math)), task["title"]


def test_an_exam_has_a_point_for_each_minute_and_numbers_that_are_checked():
    assert sum(task["points"] for task in EXAM["tasks"]) == EXAM["minutes"] == 60
    assert sum("check" in task for task in EXAM["tasks"]) >= 5


def test_the_exam_sheet_has_no_solution(tmp_path):
    write_exam(tmp_path)
    sheet, rubric = (
        (tmp_path / f"{name}.md").read_text("utf-8") for name in ("exam", "exam_rubric")
    )
    for task in EXAM["tasks"]:
        assert task["ask"] in sheet and task["ask"] in rubric
        hidden = [task["solution"], *(what for _, what in task["earns"])]
        hidden += [words for pair in task["misconceptions"] for words in pair]
        for words in (words for words in hidden if len(words) > 4):
            assert words in rubric and words not in sheet


def test_projects_ask_for_commands_that_exist():
    text = (ROOT / "teaching/projects.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^## Project \d: ", text, re.MULTILINE)) == 3
    assert text.count("**Week 1.**") == text.count("**Week 2.**") == 3
    points = [int(n) for n in re.findall(r" (\d+)[,.]", text.split("**Points:**")[1][:200])]
    assert sum(points[-5:]) == 100
    commands = re.findall(r"^\s+python -m lpa_core train (.+)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        given = dict(re.findall(r"--(\w+) (\S+)", command))
        assert given["network"] in list_networks()
        assert given["dataset"] in ("NAME", *list_datasets())
        assert given["recipe"] in RECIPES


def test_students_keep_charts_and_photographs_and_nothing_that_was_printed():
    make = nbformat.v4.new_output
    outputs = [
        make("display_data", data={"image/svg+xml": "<svg/>", "text/plain": "a chart"}),
        make("display_data", data={"image/png": "aGk=", "text/plain": "a photograph"}),
        make("stream", name="stdout", text="0.5"),
        make("display_data", data={"text/html": "<table></table>"}),
    ]
    assert teacher_pack.given(outputs, for_students=True) == outputs[:2]
    assert teacher_pack.given(outputs, for_students=False) == outputs


@pytest.mark.parametrize("published", [True, False])
def test_a_pack_without_a_repository_says_so(published):
    address = "https://github.com/some-one/attention"
    book = teacher_pack.Book({}, {}, "https://some-one.github.io/", address, {}, published)
    text = "See [deviations](../book/deviations.md)."
    link = "See [deviations](https://some-one.github.io/book/deviations.html)."
    assert teacher_pack.plain(text, book, {}, set()) == (
        link if published else "See deviations."
    )
    assert (address in teacher_pack.origin(book)) == published
    assert ("no repository yet" in teacher_pack.origin(book)) != published
