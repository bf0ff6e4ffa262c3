"""The facts that stand beside every figure."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from rnndrop_cuda import provenance

ROOT = Path(__file__).resolve().parents[1]


def test_facts_of_this_machine():
    facts = provenance.facts(torch.device("cpu"), "rnndrop compare")
    assert facts["command"] == "rnndrop compare"
    assert facts["device"] == "cpu"
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert facts["machine"].endswith(f"{sys.platform.capitalize()} {facts['machine'].split()[-1]}")


def commit_of(checkout: Path) -> str:
    """As the package there sees it, from another folder."""
    script = (
        "import torch; from rnndrop_cuda import provenance\nprint(provenance.facts(torch.device('cpu'), '')['commit'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd="/",
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin", "HOME": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def git(checkout: Path, *command: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *options, *command], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    """A copy in nobody's repository, in its own with and without changes, and in a repository of another project."""
    checkout = tmp_path / "checkout"
    unneeded = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "rnndrop_cuda", checkout / "rnndrop_cuda", ignore=unneeded)
    assert commit_of(checkout) == "unknown"
    (checkout / ".gitignore").write_text("__pycache__/\n")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "all")
    commit = git(checkout, "rev-parse", "HEAD")
    assert commit_of(checkout) == commit
    (checkout / "rnndrop_cuda" / "lstm.py").open("a").write("# changed\n")
    assert commit_of(checkout) == f"{commit}-dirty"
    other = tmp_path / "other"
    (other / "site-packages").mkdir(parents=True)
    (checkout / "rnndrop_cuda").rename(other / "site-packages" / "rnndrop_cuda")
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "another project")
    assert commit_of(other / "site-packages") == "unknown"
