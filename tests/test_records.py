"""Records: lines that many processes may add, that a full disk or a kill cannot spoil, and
the tables made of them beside the paper's numbers.
"""

import errno
import json
import os
import resource
import statistics
import subprocess
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lpa_core import provenance
from lpa_core.provenance import seal, unseal
from lpa_core.results import (
    NOT_RUN,
    DamagedRecord,
    paper,
    read_records,
    summarise,
    table1_beside,
    table2_beside,
)
from lpa_core.training import Record, RecordError, RunSpec, append_record

ROOT = Path(__file__).resolve().parents[1]


def a_record(number=0, error=8.5, epochs=3, **changes):
    """A record that nothing was trained for."""
    history = [
        dict(
            epoch=n, image_size=32, rate=0.1, train_loss=1.0, train_error=30.0, seconds=7.5
        )
        for n in range(1, epochs + 1)
    ]
    history[-1] |= {"test_loss": 0.4, "test_error": error}
    metrics = {
        "test_error": error,
        "test_loss": 0.4,
        "train_error": 30.0,
        "train_loss": 1.0,
    }
    spec = {"network": "vgg", "dataset": "cifar10", "seed": number} | changes
    return Record(
        id=f"{number:016x}",
        spec=RunSpec(**spec),
        profile="laptop",
        epochs=epochs,
        fingerprints={"train": "a", "test": "b"},
        metrics=metrics,
        history=history,
        parameters=1234,
        images_per_second=500.0 + number,
        peak_memory_bytes=10**9,
        device="a processor",
        threads=2,
        precision="float32",
        versions={"torch": "2"},
        git={"commit": "c0ffee", "clean": True},
        code="abc",
        started=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        seconds=120.0,
        sessions=1,
        weights_sha256="d",
    )


def a_line(record):
    return seal(json.dumps(record.model_dump(mode="json")))


# -------------------------------------------------------------------------- appending


def test_a_record_is_one_line_and_is_read_as_it_was(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    first, second = a_record(1), a_record(2)
    append_record(first, path)
    append_record(second, path)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["spec"]["seed"] == 1
    assert read_records(path) == [first, second]


def test_a_record_is_not_added_twice(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(a_record(1), path)
    append_record(a_record(2), path)
    content = path.read_bytes()
    append_record(a_record(1), path)
    assert path.read_bytes() == content


def in_processes(count, work):
    """`work(number)` in so many processes, all let go at one moment."""
    read_end, write_end = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(write_end)
                os.read(read_end, 1)  # returns when the parent closes its end
                work(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(write_end)
    os.close(read_end)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * count


def test_processes_that_write_at_once_leave_whole_lines_and_each_once(tmp_path):
    """Six processes add eight long records each, half of which they all add."""
    path = tmp_path / "records.jsonl"

    def work(number):
        for n in range(4):
            append_record(a_record(n, epochs=200), path)
            append_record(a_record(100 * (number + 1) + n, epochs=200), path)

    in_processes(6, work)
    content = path.read_bytes()
    assert content.endswith(b"\n")
    ids = [unseal(line)["id"] for line in content.decode().splitlines()]
    assert len(ids) == len(set(ids)) == 4 + 6 * 4


def test_a_line_that_was_left_unfinished_spoils_no_other(tmp_path):
    path = tmp_path / "records.jsonl"
    append_record(a_record(1), path)
    torn = a_line(a_record(2))[:100].encode()
    with open(path, "ab") as file:
        file.write(torn)
    append_record(a_record(3), path)
    lines = path.read_bytes().split(b"\n")
    assert lines[1] == torn
    assert lines[3] == b""
    with pytest.warns(DamagedRecord, match="line 2"):
        assert [record.spec.seed for record in read_records(path)] == [1, 3]


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    append_record(a_record(1), path)
    content = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(provenance.os, "fsync", full)
    with pytest.raises(RecordError, match=r"records\.jsonl: No space left on device"):
        append_record(a_record(2), path)
    assert path.read_bytes() == content


def test_a_line_that_has_only_room_for_its_beginning_is_taken_back(tmp_path):
    """The system itself refuses to let the file grow by more than 50 bytes."""
    path = tmp_path / "records.jsonl"
    append_record(a_record(1), path)
    content = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 50, before[1]))
    try:
        with pytest.raises(RecordError, match=r"cannot write to .*records\.jsonl"):
            append_record(a_record(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == content
    append_record(a_record(2), path)
    assert len(read_records(path)) == 2


def test_the_commit_is_the_packages_and_records_beside_it_leave_it_clean(tmp_path):
    """A batch adds to the records between two runs: the second is no less its commit's."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1\n")

    def git(*words):
        mail = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *mail, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert provenance.git_state(package) == provenance.Git(commit=None, clean=None)
    git("init", "-q")
    (tmp_path / "records.jsonl").write_text("a\n")
    git("add", "records.jsonl")
    git("commit", "-q", "-m", "records")
    # As a package installed below a project that does not keep it.
    assert provenance.git_state(package) == provenance.Git(commit=None, clean=None)
    git("add", ".")
    git("commit", "-q", "-m", "package")
    head = git("rev-parse", "HEAD").strip()
    (tmp_path / "records.jsonl").write_text("a\nb\n")
    (tmp_path / "weights").write_text("new\n")
    assert provenance.git_state(package) == provenance.Git(commit=head, clean=True)
    (package / "new.py").write_text("")
    assert provenance.git_state(package) == provenance.Git(commit=head, clean=False)
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("one = 2\n")
    assert provenance.git_state(package) == provenance.Git(commit=head, clean=False)


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(
        RecordError, match=r"cannot write to .* name a file that is writable"
    ):
        append_record(a_record(), tmp_path)


def test_a_place_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write to the folder .*file"):
        append_record(a_record(), tmp_path / "file" / "records.jsonl")


# --------------------------------------------------------------------------- identity


def test_a_records_identity_is_of_what_it_holds():
    """An old record names its recipe alone; what its code was called does not count."""
    old = a_record(1)
    recipe = old.spec.chosen_recipe().content()
    same = [{"id": "another"}, {"code": None}, {"recipe": recipe}, {"device": "another"}]
    others = [
        {"recipe": recipe | {"batch_size": 64}},
        {"fingerprints": {"train": "a", "test": "c"}},
        {"training_version": 2},
        {"spec": old.spec.model_copy(update={"seed": 9})},
    ]
    identities = [old.model_copy(update=change).identity for change in (*same, *others)]
    assert set(identities[:4]) == {old.identity}
    assert len(set(identities)) == 5
    assert old.identity == old.spec.identity(old.fingerprints)


# ---------------------------------------------------------------------------- reading


def sealed_after(old, new):
    """A line under the right digest that holds what no record holds."""
    return seal(a_record(5).model_dump_json().replace(old, new)).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"{",
        b"not json",
        b"[]",
        b"\xff\xfe",
        a_line(a_record(5))[:-1].encode(),
        a_line(a_record(5)).replace("8.5", "8.4").encode(),  # one digit
        a_record(5).model_dump_json().encode(),  # under no digest
        sealed_after("8.5", '"8.5 %"'),
        sealed_after('"id"', '"identity"'),
        sealed_after('"vgg"', '"vgg-att4"'),
    ],
)
def test_a_damaged_line_is_reported_by_its_number_and_left_out(tmp_path, damaged):
    path = tmp_path / "records.jsonl"
    good = [a_line(a_record(n)).encode() for n in (1, 2)]
    path.write_bytes(b"\n".join([good[0], b"", damaged, good[1], b""]))
    with pytest.warns(DamagedRecord, match=r"records\.jsonl, line 3: ") as caught:
        records = read_records(path)
    assert len(caught) == 1
    assert [record.spec.seed for record in records] == [1, 2]


def test_a_run_that_was_recorded_twice_counts_once(tmp_path):
    path = tmp_path / "records.jsonl"
    line = a_line(a_record(1)) + "\n"
    path.write_text(line + a_line(a_record(2)) + "\n" + line)
    assert sorted(record.spec.seed for record in read_records(path)) == [1, 2]


def test_the_books_records_are_whole_and_say_where_they_come_from():
    path = ROOT / "results" / "records.jsonl"
    if not path.exists() or not path.read_bytes().strip():
        pytest.skip("no run is recorded yet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read_records(superseded=True)
    assert len(records) == len(path.read_bytes().splitlines())
    for record in records:
        assert record.device
        assert {"python", "torch", "lpa_core"} <= set(record.versions)
        assert len(record.git.commit) == 40
        assert len(record.history) == record.epochs == record.history[-1].epoch
        assert 0 <= record.metrics["test_error"] <= 100


# ----------------------------------------------------------------------------- tables

TABLE1 = (
    "vgg vgg-gap vgg-pan rn164 vgg-att-dp vgg-att2-indep-dp vgg-att2-concat-dp "
    "vgg-att-pc vgg-att2-indep-pc vgg-att2-concat-pc vgg-att3-concat-pc"
)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_without_records_every_row_of_table_1_says_not_run(dataset):
    table = table1_beside([], dataset)
    assert list(table.network) == TABLE1.split()
    assert set(table.measured) == {NOT_RUN}
    assert set(table.n) == {0}
    assert set(table.difference) == {""}
    assert table.paper.str.fullmatch(r"\d+\.\d\d ± 0\.\d\d").all()


def test_records_stand_beside_the_papers_numbers():
    errors = [8.1, 8.4, 9.3]
    runs = [a_record(n, error) for n, error in enumerate(errors)]
    runs += [a_record(9, 12.0, width=0.5), a_record(8, 11.0, network="vgg-att2-concat-pc")]
    table = table1_beside(runs)
    assert set(table.network) == set(TABLE1.split())
    vgg = table[table.network == "vgg"]
    mean, std = sum(errors) / 3, statistics.stdev(errors)
    assert list(vgg.measured) == [f"{mean:.2f} ± {std:.2f}", "12.00"]
    assert list(vgg.n) == [3, 1]
    assert list(vgg.width) == ["0.25", "0.5"]
    assert list(vgg.paper) == ["7.77 ± 0.08"] * 2
    assert list(vgg.difference) == ["+0.83", "+4.23"]
    (att2,) = table[table.network == "vgg-att2-concat-pc"].itertuples()
    assert (att2.measured, att2.n, att2.difference) == ("11.00", 1, "+5.77")
    assert (table.measured == NOT_RUN).sum() == 9


def test_a_summary_has_mean_deviation_and_number_of_runs():
    runs = [a_record(n, error) for n, error in enumerate([8.0, 9.0, 11.5])]
    part = a_record(3, 50.0, train_images=1000)  # never to be compared with the paper
    summary = summarise([*runs, part, a_record(4, 7.0, recipe="paper")])
    assert len(summary) == 2
    fast, paper_recipe = summary.itertuples()
    assert (fast.n, paper_recipe.n) == (3, 1)
    assert fast.test_error == pytest.approx(28.5 / 3)
    # Squares of -1.5, -0.5 and 2 sum to 6.5, over n - 1 = 2.
    assert fast.std == pytest.approx(3.25**0.5)
    assert paper_recipe.std != paper_recipe.std  # nan: one run has no spread
    assert fast.minutes == pytest.approx(2)
    assert fast.images_per_second == pytest.approx(501)
    assert (fast.recipe, paper_recipe.recipe) == ("fast", "paper")


def test_runs_on_several_devices_are_repetitions_timed_on_one():
    slow = [a_record(n, error) for n, error in enumerate([8.0, 9.0])]
    quick = a_record(2, 11.5).model_copy(
        update={"device": "quick", "seconds": 1.0, "images_per_second": 9000.0}
    )
    (row,) = summarise([quick, *slow]).itertuples()
    assert (row.n, row.test_error) == (3, pytest.approx(28.5 / 3))
    assert row.device == f"{slow[0].device} (2), quick (1)"
    assert row.minutes == pytest.approx(2)
    assert row.images_per_second == pytest.approx(500.5)


def test_the_profile_that_a_run_belongs_to_does_not_matter():
    """What is pooled: network, data, width, recipe, epochs, and how it begins."""
    one, two = a_record(1, 8.0), a_record(2, 9.0).model_copy(update={"profile": "gpu"})
    wide = a_record(0, 5.0, width=1.0).model_copy(update={"profile": "gpu"})
    alone, pooled = summarise([wide, one, two]).itertuples()
    assert (pooled.n, pooled.test_error, pooled.profile) == (2, 8.5, "gpu, laptop")
    assert (alone.n, alone.width) == (1, 1.0)
    table = table1_beside([wide, one, two]).set_index("network").loc["vgg"]
    # Whichever was trained first.
    assert list(table.width) == ["0.25", "1"] and list(table.n) == [2, 1]


def test_the_books_table_1_has_full_width_on_both_sets():
    records = read_records()
    for dataset in ("cifar10", "cifar100"):
        table = table1_beside(records, dataset)
        assert {"vgg", "vgg-att2-concat-pc"} <= set(table[table.width == "1"].network)


def test_runs_with_options_are_not_averaged_with_those_without():
    odd = a_record(5, 6.0, network="vgg-att2-concat-pc", average_gradients=True)
    started = a_record(6, 5.0, network="vgg-att2-concat-pc", initial="w.safetensors")
    plain = a_record(7, 7.0, network="vgg-att2-concat-pc")
    begun = [
        a_record(8, 4.0, network="vgg-att2-concat-pc", initialisation="scripts"),
        a_record(9, 3.0, network="vgg-att2-concat-pc", query_std=0.2),
        a_record(10, 2.0, network="vgg-att2-concat-pc", initialisation="pytorch"),
    ]
    summary = summarise([odd, started, plain, *begun])
    assert sorted(summary.n) == [1, 1, 1, 1, 2]  # "pytorch" is what `fast` begins with
    assert list(table1_beside(begun).query("n > 0").n) == [1, 1, 1]
    assert set(summary.recipe) == {
        "fast",
        "fast, begins scripts",
        "fast, begins u0.2",
        "fast, averaged gradients",
        "fast, other weights to start from",
    }


TABLE2 = "vgg vgg-gap vgg-pan rn34 vgg-att2-concat-pc vgg-att3-concat-pc"


def test_table_2_has_every_row_whether_run_quoted_or_not_reported():
    table = table2_beside([a_record(1, 30.0, dataset="svhn")], "svhn")
    assert list(table.network) == TABLE2.split()
    by_name = table.set_index("network")
    assert by_name.loc["vgg", ["paper", "measured"]].tolist() == ["4.27 ± 0.04", "30.00"]
    assert by_name.loc["rn34", ["paper", "measured"]].tolist() == ["not reported", NOT_RUN]
    cub = table2_beside([]).set_index("network")
    assert cub.loc["rn34", "paper"] == "26.50 (quoted)"
    assert cub.loc["vgg-gap", "paper"] == "29.50 (quoted)"
    assert cub.loc["vgg-att3-concat-pc", "paper"] == "26.95 ± 0.10"
    assert set(cub.measured) == {NOT_RUN}


def test_a_data_set_that_table_1_lacks_is_named():
    with pytest.raises(
        ValueError, match=r"no data set 'svhn': choose one of cifar10, cifar100"
    ):
        table1_beside([], "svhn")


# Read in the text of the paper, and typed here.
@pytest.mark.parametrize(
    ("network", "dataset", "mean", "std"),
    [
        ("vgg", "cifar10", 7.77, 0.08),
        ("vgg", "cifar100", 30.62, 0.16),
        ("vgg-gap", "cifar10", 9.87, 0.10),
        ("vgg-pan", "cifar100", 24.35, 0.14),
        ("rn164", "cifar10", 6.03, 0.18),
        ("vgg-att2-indep-dp", "cifar100", 23.24, 0.07),
        ("vgg-att2-concat-dp", "cifar10", 5.86, 0.05),
        ("vgg-att-pc", "cifar10", 5.67, 0.04),
        ("vgg-att2-concat-pc", "cifar10", 5.23, 0.04),
        ("vgg-att2-concat-pc", "cifar100", 23.19, 0.04),
        ("vgg-att3-concat-pc", "cifar10", 6.34, 0.07),
        ("vgg-att3-concat-pc", "cifar100", 22.97, 0.04),
    ],
)
def test_table_1_is_the_papers(network, dataset, mean, std):
    figure = paper.table1()[network][dataset]
    assert (figure.mean, figure.std) == (mean, std)


def test_the_papers_other_numbers_are_the_papers():
    numbers = paper.numbers()
    assert numbers["table2"]["existing"]["vgg"]["cub200"] == [34.64, 0.26]
    assert numbers["table2"]["attention"]["vgg-att3-concat-pc"]["svhn"] == [3.52, 0.04]
    assert numbers["table2"]["existing"]["vgg-gap"]["cub200"] == [29.50, None]
    assert numbers["figure6"]["vgg"][:2] == [58.58, 78.27]
    assert numbers["figure6"]["vgg-att2"][:2] == [53.78, 76.00]
    assert numbers["table3"]["vgg"]["caltech101"] == [35.97, 54.20]
    assert numbers["table3"]["rn164-att2"]["scene67"] == [30.46, 34.39]
    jaccard = numbers["figure9"]["attention_based"]
    assert jaccard["vgg-att3"]["car"] == [61.19, 41.23]
    assert numbers["figure9"]["joint_segmentation"]["jain2016"]["horse"] == 53.57
