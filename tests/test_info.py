"""`rnndrop info` names what was built and, for each thing that is missing, why and how to get it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rnndrop_cuda import functional, info, ops

FACTS = {
    "torch": torch.__version__,
    "compiler": "g++ 12.2.0",
    "cpu_missing": "",
    "cuda": "13.0",
    "cuda_missing": "",
    "cuda_arch_list": "8.0;9.0+PTX",
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch):
    """Pretend that the package was built with these facts, differing from FACTS, and that it loads or why not."""

    def pretend(facts: dict[str, str] | None, why_not_loaded: str = "", gpu: bool = False) -> None:
        monkeypatch.setattr(info, "build_facts", lambda: None if facts is None else FACTS | facts)
        monkeypatch.setattr(ops, "WHY_NOT_LOADED", why_not_loaded)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        # The vector code is asked of the extension itself, which may be missing while these tests run.
        monkeypatch.setattr(info, "_usable", lambda: [])

    return pretend


def missing() -> str:
    return info.report().partition("missing, and how to get it\n  ")[2]


def test_report_of_this_installation() -> None:
    text = info.report()
    assert f"torch    {torch.__version__}" in text
    for backend, why in functional.usable_backends().items():
        assert f"  {backend:8} {'no: ' + why if why else 'yes'}\n" in text


def test_nothing_missing(built) -> None:
    built({}, gpu=True)
    assert "CPU kernels    yes\n  CUDA kernels   yes, for 8.0;9.0+PTX\n" in info.report()
    assert missing() == "nothing"


def test_never_built(built) -> None:
    built(None, why_not_loaded="not built")
    assert missing() == "all kernels: run `pip install .` in the source folder"


def test_no_compiler(built) -> None:
    built({"compiler": "", "cpu_missing": "no g++; install one", "cuda_missing": "no g++"}, why_not_loaded="not built")
    assert "compiler none\n  CPU kernels    no\n  CUDA kernels   no\n" in info.report()
    assert missing() == "all kernels: no g++; install one"


def test_built_for_another_torch(built) -> None:
    built({"torch": "2.0.0"}, why_not_loaded="undefined symbol", gpu=True)
    assert missing() == (
        f"all kernels: they were built for torch 2.0.0 and do not load with torch {torch.__version__}; "
        "install rnndrop_cuda again"
    )


def test_built_for_this_torch_and_still_not_loaded(built) -> None:
    built({}, why_not_loaded="undefined symbol: __kmpc_barrier", gpu=True)
    assert missing().startswith("all kernels: undefined symbol: __kmpc_barrier; torch is the one that they were built")
    assert "do not load with torch" not in missing()


def test_no_cuda_kernels(built) -> None:
    built({"cuda": "", "cuda_arch_list": "", "cuda_missing": "no nvcc; install it"}, gpu=True)
    assert "CUDA kernels   no\n" in info.report()
    assert missing() == "CUDA kernels: no nvcc; install it"


def test_cuda_kernels_but_no_gpu(built) -> None:
    built({})
    assert missing().startswith("a GPU: torch sees none; `nvidia-smi` has to list one")


def test_facts_come_from_the_file_where_there_is_no_extension(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ops, "WHY_NOT_LOADED", "not built")
    monkeypatch.setattr(info, "BUILD_FACTS_FILE", tmp_path / "facts.json")
    assert info.build_facts() is None
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    assert info.build_facts() == FACTS


@pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED or "the extension is loaded")
def test_facts_come_from_the_extension() -> None:
    facts = info.build_facts()
    assert facts is not None
    assert facts.keys() == FACTS.keys()
    assert facts["cpu_missing"] == ""
    assert bool(facts["cuda"]) != bool(facts["cuda_missing"])


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main([]) == 0
    assert capsys.readouterr().out == info.report() + "\n"
    with pytest.raises(SystemExit) as stop:
        info.main(["--nonsense"])
    assert stop.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
