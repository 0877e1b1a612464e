"""The profiles for clusters: what they ask for exists, and Kubernetes' jobs are jobs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "profiles/kubernetes/jobs.py"
KUBECTL = """#!/bin/bash
echo "$@" >> calls.txt
if [ "$1" = create ]; then cat > job.json; echo job.batch/lpa-book-1; fi
if [ "$1" = get ]; then cat state.json; fi
"""


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_names_rules_that_exist(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    rules = re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert {*profile["set-threads"], *profile["set-resources"]} <= set(rules)
    assert profile["executor"] in ("slurm", "cluster-generic")


@pytest.fixture
def jobs(tmp_path):
    """`jobs.py` with a kubectl that notes what it was told."""
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "step.sh").write_text("#!/bin/sh\necho hello\n")

    def call(*words, **environment):
        path = f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, JOBS, *words],
            cwd=tmp_path,
            env=os.environ | {"PATH": path} | environment,
            capture_output=True,
            text=True,
        )

    return call


SUBMIT = ("submit", "--cores", "8", "--memory", "16000")
CLUSTER = {"LPA_IMAGE": "an/image:1", "LPA_CLAIM": "a-claim"}


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_step_becomes_a_job_on_the_shared_volume(jobs, gpus, tmp_path):
    done = jobs(*SUBMIT, "--gpus", str(gpus), "step.sh", **CLUSTER)
    assert done.stdout == "job.batch/lpa-book-1\n"
    job = json.loads((tmp_path / "job.json").read_text())
    assert (job["kind"], job["spec"]["backoffLimit"]) == ("Job", 0)
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "an/image:1"
    assert container["command"][2] == "#!/bin/sh\necho hello\n"
    assert container["workingDir"] == str(tmp_path)
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "a-claim"
    (mount,) = container["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], str(tmp_path))
    wanted = {"cpu": "8", "memory": "16000M"} | ({"nvidia.com/gpu": "2"} if gpus else {})
    assert container["resources"]["limits"] == wanted


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "running"),
        ({"status": {"active": 1}}, "running"),
        ({"status": {"succeeded": 1}}, "success"),
        ({"status": {"failed": 1}}, "failed"),
    ],
)
def test_a_jobs_state_in_snakemakes_words(jobs, state, said, tmp_path):
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert jobs("status", "job.batch/lpa-book-1").stdout == f"{said}\n"


def test_a_job_is_taken_back(jobs, tmp_path):
    assert jobs("cancel", "job.batch/a", "job.batch/b").returncode == 0
    said = (tmp_path / "calls.txt").read_text()
    assert said == "delete --ignore-not-found job.batch/a job.batch/b\n"


def test_what_is_missing_is_said(jobs, tmp_path):
    done = jobs(*SUBMIT, "--gpus", "0", "step.sh", LPA_IMAGE="", LPA_CLAIM="a-claim")
    assert done.returncode == 1
    assert done.stderr == "$LPA_IMAGE is not set: see profiles/kubernetes/config.yaml\n"
    assert not (tmp_path / "job.json").exists()
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text("#!/bin/bash\necho 'no cluster' >&2; exit 1\n")
    done = jobs("status", "job.batch/lpa-book-1")
    assert done.returncode == 1 and "no cluster" in done.stderr


SCHEMA = yaml.safe_load((ROOT / "profiles/config.schema.yaml").read_text())


@pytest.mark.parametrize(
    "config",
    [
        {"profile": "huge"},
        {"profil": "smoke"},
        {"gpus": -1},
        {"gpus": "two"},
        {"train": "yes"},
        {"plan": 3},
    ],
    ids=str,
)
def test_a_wrong_config_is_refused(config):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, SCHEMA)


def test_the_schema_takes_what_the_makefile_gives_and_the_snakefile_reads():
    for config in ({}, {"profile": "laptop", "gpus": 2, "train": "true", "plan": "a.json"}):
        jsonschema.validate(config, SCHEMA)
    text = (ROOT / "Snakefile").read_text()
    read = {*re.findall(r"config(?:\.get\(|\[)\"(\w+)\"", text)}
    assert read == set(SCHEMA["properties"])
    assert 'min_version("' in text
