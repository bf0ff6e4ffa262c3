"""Peak memory, and the command bench.memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from bench import layers, markdown, memory, records
from bench.records import Peak
from tests.bench.samples import CPU, OURS, without_gradient_through_h_n


def test_peak_is_what_was_alive_at_once() -> None:
    megabyte = 1 << 20

    with_one, with_four = (memory.in_a_process(peak_after_a_larger_one, call) for call in ("in turn", "together"))
    assert abs(with_one - 8 * megabyte) < megabyte
    assert abs(with_four - 32 * megabyte) < megabyte


def peak_after_a_larger_one(which: str) -> int:
    """In bytes; what was freed before is not to hide any of it."""
    torch.set_num_threads(1)  # those of pytest's process were not forked
    float(torch.ones(1 << 25).sum())  # and what is called below is loaded
    small = [torch.ones(1 << 14) for _ in range(100)]
    del small
    calls = {
        "in turn": lambda: [float(torch.ones(1 << 21).sum()) for _ in range(4)],
        "together": lambda: [torch.ones(1 << 21) for _ in range(4)],
    }
    return memory.peak_of(calls[which], CPU)


def test_code_and_untouched_memory_do_not_count() -> None:
    """The kernel maps more than a call touches: pages of files around one that is read, and memory 2 MB at a time."""
    assert memory.in_a_process(peak_of_code_and_untouched_memory) < 1 << 20


def peak_of_code_and_untouched_memory() -> int:
    torch.set_num_threads(1)
    libraries = Path(torch.__file__).parent / "lib"
    with (
        (libraries / "libtorch_python.so").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code,
        mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE) as untouched,
    ):
        untouched.madvise(mmap.MADV_HUGEPAGE)

        def call() -> None:
            code.find(b"not in this library, which is read to its end for that")
            untouched[4 << 20] = 1

        return memory.peak_of(call, CPU)


def test_memory_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.csv"
    argv = ["--size", "20,16,24,32", "--repeats", "2", "--backends", OURS[0], "--threads", "1", "--out", str(out)]
    assert memory.main(argv) == 0
    facts, peaks = records.read(out, Peak)
    assert facts["command"].startswith("python -m bench.memory --size 20,16,24,32")
    assert "resident, VmHWM" in facts["weighed"]
    assert [(p.contender, p.dropout, p.p, p.p_g) for p in peaks] == [
        ("nn.LSTM", "none", 0.0, 0.0),
        ("nn.LSTMCell loop", "none", 0.0, 0.0),
        ("LSTM module", "none", 0.0, 0.0),
        ("LSTM module", "Gal batch", 0.5, 0.0),
        ("LSTM module", "Semeniuta step", 0.0, 0.3),
        ("LSTM module", "Semeniuta sequence", 0.0, 0.3),
    ]
    for p in peaks:
        assert (p.T, p.B, p.I, p.H, p.threads, p.repeats) == (20, 16, 24, 32, 1, 2)
        # y and the saved gates at least
        assert 20 * 16 * 5 * 32 * 4 <= p.min_bytes <= p.median_bytes <= p.max_bytes < 100 << 20
    assert markdown.peaks_table(peaks) in capsys.readouterr().out


def test_memory_of_a_wrong_contender_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers, "nn_lstm", without_gradient_through_h_n)
    argv = ["--size", "3,2,4,5", "--backends", "python", "--threads", "1", "--out", str(tmp_path / "m.csv")]
    assert memory.main(argv) == 1
    assert "nn.LSTM, dropout none (T=3 B=2 I=4 H=5, torch.float32) is wrong" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
