"""What a chapter owes its reader: a head that says what for, exercises whose checks help.

The checks are tried on what students write: the folded solutions, and mistakes.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

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
    earlier = [f"{name}.ipynb" for name in NOTEBOOKS if name < chapter]
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


def exercise(chapter: str) -> tuple[dict, str, str, str]:
    """Names up to a chapter's exercise in code, the check, the function, the solution."""
    listed = cells(chapter)
    found = [
        (index, check[1])
        for index, (kind, source) in enumerate(listed)
        if kind == "code"
        and (check := re.search(r"^def (check_\w+)\(function\)", source, re.MULTILINE))
    ]
    assert len(found) == 1, f"{chapter}: {len(found)} checks"
    index, check = found[0]
    source = listed[index][1]
    name = check.removeprefix("check_")
    assert source.rstrip().endswith(f"print({check}({name}))")
    namespace = preceding_names([text for kind, text in listed[:index] if kind == "code"])
    exec(source, namespace)
    folded = listed[index + 1][1]
    solution = re.search(r"^```python\n(.*?)^```", folded, re.MULTILINE | re.DOTALL)[1]
    assert f"def {name}(" in solution
    return namespace, check, name, solution


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
    namespace, check, name, solution = exercise(chapter)
    assert namespace[check](namespace[name]) == "not written yet"
    exec(solution, namespace)
    assert namespace[check](namespace[name]).startswith("right")


# What students write, and a part of what they are told.
MISTAKES = {
    "01_idea": [
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum()", "that is its entropy"),
        ("lambda a: np.exp((a[a > 0] * np.log(a[a > 0])).sum())", "look at the sign"),
        ("lambda a: np.exp(-(a[a > 0] * np.log2(a[a > 0])).sum())", "different bases"),
        ("lambda a: np.exp(-(a * np.log(a)).sum())", "where there is no attention"),
        ("lambda a: np.exp(-(a * np.log(a + 1e-9)).sum()) / a.size", "a share of the"),
        ("lambda a: (a > 0).sum()", "with little attention counts less"),
        ("lambda a: np.exp(-(a * np.log(a + 1e-9)).sum(axis=0))", "one number is wanted"),
    ],
    "02_estimator": [
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
    "03_networks": [
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
    "04_data": [
        ("lambda x: 55 * (c := x - x.mean(axis=(1, 2), keepdims=True)) "
         "/ max(np.sqrt((c**2).sum()), 1e-9)", "not one for each channel"),
        ("lambda x: 55 * x / np.sqrt((x**2).sum())", "the mean over all channels"),
        ("lambda x: 55 * (x - x.mean()) / x.std()", "the norm, the root of"),
        ("lambda x: 55 * (c := x - x.mean()) / np.abs(c).sum()", "the norm, the root of"),
        ("lambda x: 55 * (c := x - x.mean()) / np.sqrt((c**2).sum())", "of one colour"),
        ("lambda x: (55 * (x - x.mean()) / x.std()).mean(axis=0)", "shape should stay"),
    ],
    "05_training": [
        ("lambda label, k, s: [1 - s if i == label else s / (k - 1) for i in range(k)]",
         "among how many classes"),
        ("lambda label, k, s: [s / k + (1 - s) * (i == label + 1) for i in range(k)]",
         "should be largest at 2"),
        ("lambda label, k, s: [s / k + (i == label) for i in range(k)]", "sum to one"),
        ("lambda label, k, s: [float(i == label) for i in range(k)]", "with nothing"),
        ("lambda label, k, s: [s / 10 + (1 - s) * (i == label) for i in range(10)]",
         "4 numbers that sum to one"),
    ],
    "06_table1": [
        ("lambda e: np.std(e) / len(e) ** 0.5", "nearly: this is a sample"),
        ("lambda e: np.std(e, ddof=1)", "so far apart are single runs"),
        ("lambda e: np.std(e, ddof=1) / len(e)", "and yours is a quarter"),
        ("lambda e: np.var(e, ddof=1)", "in squared per cent"),
        ("lambda e: np.std(e, ddof=1) / (len(e) - 1) ** 0.5", "times as large"),
    ],
    "07_table2": [
        ("lambda before, after: before - after", "is in points"),
        ("lambda before, after: (before - after) / after", "whose errors are the whole"),
        ("lambda before, after: (after - before) / before", "more errors than before"),
        ("lambda before, after: after / before", "is what is left"),
        ("lambda before, after: 100 * (before - after) / before", "the share is 0.5"),
    ],
    "08_query": [
        ("lambda score: bool((score(x := torch.randn(1, 8, 5, 5), torch.randn(1, 8)) "
         "- score(x, torch.randn(1, 8))).abs().max() > 1e-4)", "pc is True (its scores"),
        ("lambda score: bool((score(x := torch.randn(1, 8, 5, 5), torch.randn(1, 8))"
         ".softmax(0) - score(x, torch.randn(1, 8)).softmax(0)).abs().max() > 1e-4)",
         "dp is False (give it two queries"),
        ("lambda score: True", "pc is True"),
    ],
    "09_resolution": [
        ("lambda b: b / multiply_adds(build_network('vgg', num_classes=10))",
         "if both of its sides double"),
        ("lambda b: (b / multiply_adds(build_network('vgg', num_classes=10))) ** (1 / 3)",
         "% too little"),
        ("lambda b: 3.5", "for the budget of vgg you say 3.5"),
    ],
    "10_adversarial": [
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
    "11_cross_domain": [
        ("lambda score, yes: max(0.0, 1 - (1 if yes else -1) * score)", "has its square"),
        ("lambda score, yes: max(0.0, 1 - yes * score) ** 2", "costs nothing"),
        ("lambda score, yes: max(0.0, -(1 if yes else -1) * score) ** 2", "margin of 1"),
        ("lambda score, yes: max(0.0, 1 + (1 if yes else -1) * score) ** 2",
         "on the right side, costs nothing"),
        ("lambda score, yes: (1 - (1 if yes else -1) * score) ** 2", "costs nothing"),
        ("lambda score, yes: max(0.0, 1 - score) ** 2 if yes else 0.0", "what is y here"),
    ],
    "12_segmentation": [
        ("lambda v, t: max(jaccard(v > cut, t) for cut in np.unique(v))",
         "may be marked whole you return 0.000 (some cut reaches more)"),
        ("lambda v, t: jaccard(v > v.mean(), t)", "some cut reaches more"),
        ("lambda v, t: max(jaccard(m, t) for c in [-np.inf, *np.unique(v)] "
         "for m in (v > c, v <= c))", "upside down you return 1.000 (no cut reaches that)"),
    ],
    "13_query_maps": [
        ("lambda old, local, d: old * np.exp(local @ d)", "your map sums to"),
        ("lambda old, local, d: (e := np.exp(local @ d)) / e.sum()", "whatever the old"),
        ("lambda old, local, d: (e := old * np.exp(-local @ d)) / e.sum()", "yours lose"),
        ("lambda old, local, d: (e := old + np.exp(local @ d)) / e.sum()", "another map"),
        ("lambda old, local, d: old[:, None] * np.exp(local * d)", "not (6,)"),
    ],
    "14_levels": [
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum()", "a flat map has 1"),
        ("lambda a: (a[a > 0] * np.log(a[a > 0])).sum() / np.log(a.size)", "is below 0"),
        ("lambda a: -(a * np.log(a)).sum() / np.log(a.size)", "0 log 0"),
        ("lambda a: -(a[a > 0] * np.log(a[a > 0])).sum() / np.log(len(a))",
         "yours 2.000"),
        ("lambda a: 1 - (a.max() - a.min()) if a.max() < 1 else 0.0", "wrong between them"),
    ],
    "15_claims": [
        (welch := "lambda a, b, d=1, z=1.96: ((m := np.mean(a) - np.mean(b)) - (h := z * "
         "(np.var(a, ddof=d) / len(a) + np.var(b, ddof=d) / len(b)) ** 0.5), m + h)",
         "times as wide"),
        (welch.replace("d=1", "d=0"), "what does a variance divide by"),
        (welch.replace("a, b, d", "b, a, d"), "the first less the second"),
        (welch.replace("z=1.96", "z=-4"), "the lower end comes first"),
    ],
    "16_attach": [
        ("lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 10))",
         "features"),
        ("lambda: torch.nn.Sequential(OrderedDict(features=torch.nn.Conv2d(3, 8, 3, "
         "padding=1), pool=torch.nn.AdaptiveAvgPool2d(1), flat=torch.nn.Flatten(), "
         "classifier=torch.nn.Linear(8, 10)))", "its map has 32x32"),
        ("lambda: torch.nn.Sequential(OrderedDict(features=torch.nn.Conv2d(3, 8, 3, "
         "stride=2, padding=1), pool=torch.nn.AdaptiveAvgPool2d(1)))", "linear"),
    ],
    "17_running": [
        ("lambda spec, f, c: hashlib.sha256(json.dumps([spec, f, c]).encode())"
         ".hexdigest()[:16]", "in another order"),
        ("lambda spec, f, c: hashlib.sha256(json.dumps([spec, f, c], sort_keys=True)"
         ".encode()).hexdigest()", "16 hexadecimal digits are wanted"),
        ("lambda spec, f, c: hashlib.sha256((json.dumps(spec, sort_keys=True) + f)"
         ".encode()).hexdigest()[:16]", "does all of it go in"),
        ("lambda spec, f, c: hashlib.sha256((json.dumps(spec, sort_keys=True) + f + c)"
         ".encode()).hexdigest()[:16]", "where does one end"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_checks_say_what_is_wrong_and_not_what_is_right(chapter):
    namespace, check, _, solution = exercise(chapter)
    exec("import hashlib\nfrom collections import OrderedDict\nimport torch", namespace)
    assert len(MISTAKES[chapter]) >= 2
    for wrong, told in MISTAKES[chapter]:
        said = namespace[check](eval(wrong, namespace))
        assert told in said, f"{wrong}\n{said}"
        assert not said.startswith(("right", "not written"))
        for line in solution.splitlines()[1:]:
            assert len(line.strip()) < 12 or line.strip() not in said


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
