"""Snakemake's jobs as jobs of Kubernetes, by kubectl; see config.yaml beside this file.

Each pod mounts the claim $LPA_CLAIM where the repository's volume is mounted here, and runs
the image $LPA_IMAGE. $LPA_MOUNT names that place if it is not the repository itself.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path


def kubectl(*words: str, text: str | None = None) -> str:
    done = subprocess.run(["kubectl", *words], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def setting(name: str) -> str:
    if not os.environ.get(name):
        sys.exit(f"${name} is not set: see profiles/kubernetes/config.yaml")
    return os.environ[name]


def manifest(script: Path, cores: int, memory: int, gpus: int) -> dict:
    """A job that runs `script` once; `memory` in MB."""
    here = os.environ.get("LPA_MOUNT", os.getcwd())
    limits = {"cpu": str(cores), "memory": f"{memory}M"}
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    container = {
        "name": "step",
        "image": setting("LPA_IMAGE"),
        "command": ["/bin/bash", "-c", script.read_text(encoding="utf-8")],
        "workingDir": os.getcwd(),
        "env": [{"name": "PATH", "value": os.environ["PATH"]}],
        "resources": {"requests": limits, "limits": limits},
        "volumeMounts": [{"name": "book", "mountPath": here}],
    }
    claim = {"claimName": setting("LPA_CLAIM")}
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "book", "persistentVolumeClaim": claim}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "lpa-book-"},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 86400,
            "template": {"spec": pod},
        },
    }


def status(name: str) -> str:
    """What Snakemake calls it: running, success or failed."""
    state = json.loads(kubectl("get", name, "-o", "json")).get("status", {})
    if state.get("succeeded"):
        return "success"
    return "failed" if state.get("failed") else "running"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    submit = actions.add_parser("submit")
    for name in ("cores", "memory", "gpus"):
        submit.add_argument(f"--{name}", type=int, required=True)
    submit.add_argument("script", type=Path)
    for action in ("status", "cancel"):
        actions.add_parser(action).add_argument("names", nargs="+")
    given = parser.parse_args()
    if given.action == "submit":
        job = manifest(given.script, given.cores, given.memory, given.gpus)
        print(kubectl("create", "-o", "name", "-f", "-", text=json.dumps(job)))
    elif given.action == "status":
        print(status(given.names[0]))
    else:
        kubectl("delete", "--ignore-not-found", *given.names)


if __name__ == "__main__":
    main()
