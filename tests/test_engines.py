"""Asking for a CUDA engine, and why it is the one: without a GPU."""

from __future__ import annotations

import re

import pytest
import torch

import rnndrop_cuda
from rnndrop_cuda import cuda_engine, engines, explain_engine, info, ops

pytestmark = pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED)

A100, H100, H200 = (engines.GPUS[name] for name in ("a100", "h100", "h200"))


@pytest.fixture(autouse=True)
def auto():
    """Whatever tests before have asked for: the emulated backend, in the same process, shares the setting."""
    with cuda_engine("auto"):
        yield


def explained(*shape, engine="auto", **options):
    """The engine's names, forward and backward, and the whole text."""
    with cuda_engine(engine):
        text = explain_engine(*shape, **{"dtype": torch.bfloat16, "gpu": H100, **options})
    return [line.split()[1].rstrip(":") for line in text.splitlines()], text


def test_auto_keeps_small_weights_in_one_block_and_splits_large_ones():
    assert explained(32, 128, 300, 16)[0] == ["block", "block"]
    assert explained(1024, 16, 768, 768)[0] == ["grid", "grid"]
    assert explained(32, 128, 300, 4096)[0] == ["stepwise", "stepwise"]


@pytest.mark.parametrize("gpu", [H100, H200], ids=["h100", "h200"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(512, 32, 1024, 1024), (512, 64, 768, 768)], ids=str)
def test_a_large_layer_stays_on_chip_backward_too(shape, dtype, gpu):
    assert explained(*shape, dtype=dtype, gpu=gpu)[0] == ["grid", "grid"]


@pytest.mark.parametrize(
    ("gpu", "shape"),
    [(A100, (512, 16, 1152, 1152)), (H100, (512, 16, 1536, 1536))],
    ids=["a100-1152", "h100-1536"],
)
def test_what_has_little_room_beside_the_weights_comes_in_many_pieces(gpu, shape):
    backward = explained(*shape, gpu=gpu)[1].splitlines()[1]
    assert backward.startswith("backward  grid: ")
    assert int(re.search(r"(\d+) pieces", backward)[1]) > 16


@pytest.fixture
def trials():
    """What a plan may have."""
    from rnndrop_cuda import _C

    yield _C.set_cuda_trials
    _C.set_cuda_trials()


@pytest.fixture
def in_shared_memory(trials):
    """No plan keeps W_hh in registers, as none did when a GPU was measured."""
    trials(registers=False)


def test_trials_are_part_of_a_plan_where_they_mean_something(trials):
    shape = (1024, 16, 768, 768)
    as_it_is = explained(*shape)[1]
    trials(registers=False)
    assert as_it_is.count("W_hh in registers") == 2 and "registers" not in explained(*shape)[1]
    trials(registers=False, prefetch=2, pieces=2)
    tried = explained(*shape)[1]
    assert tried.count("2 pieces") == tried.count("2 steps prefetched;") == 2
    of_cluster = explained(32, 128, 300, 128, engine="cluster")[1]
    assert "2 steps prefetched;" in of_cluster and "pieces" not in of_cluster
    trials()
    assert explained(*shape)[1] == as_it_is and "prefetched" not in as_it_is


def test_blocks_copy_for_each_other_where_that_is_tried(trials):
    """Half or a quarter of what they read of the second cache, and as few clusters as GPCs have room for."""
    shape = (512, 32, 1024, 1024)
    assert explained(*shape)[0] == ["grid", "grid"]
    trials(multicast=4)
    names, text = explained(*shape)
    assert names == ["multicast", "multicast"]
    assert text.count("2 group(s) of 64 block(s)") == text.count("2 blocks copy for each other") == 2
    assert explained(1024, 16, 768, 768)[1].count("4 blocks copy for each other") == 2
    trials(multicast=1)
    names, text = explained(*shape, engine="multicast")
    assert names == ["multicast", "multicast"] and "copy for each other" not in text
    assert explained(*shape, gpu=A100)[0] == ["grid", "grid"]
    assert explained(*shape, dtype=torch.float64)[0] == ["stepwise", "stepwise"]


@pytest.mark.parametrize(
    ("dtype", "shape", "where"),
    [
        (torch.float16, (1024, 16, 768, 768), ["registers", "registers"]),
        (torch.bfloat16, (512, 64, 512, 512), ["registers", "registers"]),
        (torch.float32, (512, 64, 256, 256), ["registers", "registers"]),  # TF32
        (torch.bfloat16, (32, 128, 300, 64), ["registers", "registers"]),  # one block has all, of several tiles a warp
        (torch.bfloat16, (32, 128, 300, 80), ["shared memory", "shared memory"]),  # more cells than 256 threads take
        (torch.float64, (32, 16, 300, 128), ["shared memory", "shared memory"]),  # no tensor cores
    ],
    ids=str,
)
def test_weights_are_in_registers_where_they_fit(dtype, shape, where):
    _, text = explained(*shape, dtype=dtype)
    assert ["registers" if "W_hh in registers" in line else "shared memory" for line in text.splitlines()] == where


@pytest.mark.parametrize("gpu", [A100, H100], ids=["a100", "h100"])
@pytest.mark.parametrize("H", [512, 704, 768, 1024])
def test_weights_are_in_registers_only_where_the_model_says_that_it_is_faster(trials, gpu, H):
    """And not where the input, for which they leave room, would better come in pieces."""

    def step_of(line):
        return float(re.search(r"about (\d+\.\d+) us", line)[1])

    for B in (16, 48, 64, 96):
        trials()
        chosen = explained(512, B, 512, H, gpu=gpu)[1].splitlines()
        trials(registers=False)
        for line, other in zip(chosen, explained(512, B, 512, H, gpu=gpu)[1].splitlines(), strict=True):
            if line.split()[1] != "stepwise:" != other.split()[1]:
                assert step_of(line) <= step_of(other)


def test_weights_in_registers_leave_room_in_shared_memory():
    """An A100 has no room for the input of H=512 beside W_hh, backward: it came in pieces."""
    line = explained(512, 64, 512, 512, gpu=A100)[1].splitlines()[1]
    assert "W_hh in registers" in line and "pieces" not in line


def test_a_step_of_a_large_layer_takes_longer_than_two_launches():
    """Both ways: W_hh is read anew at each step where it is not on chip, and what is handed over grows with B."""
    assert explained(512, 64, 1024, 1024)[0] == ["grid", "grid"]
    names, text = explained(512, 4096, 256, 256, dtype=torch.float32)
    assert names[1] == "stepwise" and "expects it to be faster than grid" in text.splitlines()[1]


@pytest.mark.parametrize("B", [128, 256, 512])
def test_a_batch_whose_groups_do_not_fit_at_once_is_launched_in_parts(B):
    """Rather than step by step: each part takes as long as a smaller batch."""
    forward = explained(512, B, 768, 768)[1].splitlines()[0]
    assert forward.startswith("forward   grid: ")
    groups, blocks = map(int, re.search(r"(\d+) group\(s\) of (\d+) block", forward).groups())
    waves = re.search(r"times (\d+) waves", forward)
    assert groups * blocks <= int(waves[1] if waves else 1) * H100.multiprocessors
    assert (waves is None) == (B == 128)


def test_weights_in_registers_in_two_launches_beat_many_pieces():
    backward = explained(512, 32, 1024, 1024, gpu=A100)[1].splitlines()[1]
    assert "2 group(s) of 64 block(s)" in backward and "times 2 waves" in backward
    assert "W_hh in registers" in backward and "pieces" not in backward


def test_clusters_that_the_gpcs_have_no_room_for_run_one_after_the_other(in_shared_memory):
    """An H100 runs seven clusters of 16 blocks at once, and not the eight that its multiprocessors are enough for."""
    text = explained(512, 128, 512, 512, engine="cluster")[1]
    forward, backward = text.splitlines()
    assert "4 group(s) of 16 block(s)" in forward and "waves" not in forward
    assert "16 group(s) of 16 block(s)" in backward and "times 3 waves" in backward


def test_says_what_a_step_consists_of():
    line = explained(512, 64, 256, 256)[1].splitlines()[0]
    total, *parts = map(float, re.findall(r"(\d+\.\d+)", line))
    product, cells, exchange, at_once = parts
    assert abs(product + cells + exchange - at_once - total) < 0.07


@pytest.mark.parametrize(
    ("dtype", "shape", "measured"),
    [
        (torch.float32, (32, 128, 300, 128), (2.71, 2.76)),  # TF32
        (torch.bfloat16, (32, 128, 300, 128), (2.65, 2.62)),
        (torch.bfloat16, (512, 64, 256, 256), (2.67, 2.68)),
        (torch.bfloat16, (512, 64, 512, 512), (3.70, 3.95)),
        (torch.float16, (1024, 16, 768, 768), (3.47, 4.19)),
        (torch.bfloat16, (512, 32, 1024, 1024), (5.05, 7.95)),
    ],
    ids=str,
)
def test_the_model_is_near_what_an_h200_took(dtype, shape, measured, in_shared_memory):
    """Microseconds a step on grid, without dropout, of bench/results/h200/profile-b96fa0b.txt."""
    of_model = []
    for line in explained(*shape, engine="grid", dtype=dtype, gpu=H200)[1].splitlines():
        product, cells, exchange, at_once = map(float, re.findall(r"(\d+\.\d+)", line)[1:])
        of_model.append(product + cells + exchange - at_once)
    forward, backward = of_model
    assert forward == pytest.approx(measured[0], rel=0.15)
    assert backward == pytest.approx(measured[1], rel=0.15)


def test_nothing_comes_in_pieces_where_it_fits_whole():
    assert "pieces" not in explained(1024, 16, 768, 768)[1]


@pytest.mark.parametrize("engine", ["block", "cluster", "grid", "multicast", "stepwise"])
def test_runs_what_was_asked_for(engine):
    names, text = explained(64, 32, 128, 128, engine=engine)
    assert names == [engine, engine]
    assert "asked for" in text or "KiB of shared memory" in text


def test_says_why_not():
    assert "W_hh does not fit" in explained(64, 32, 128, 2048, engine="block")[1]
    for engine in ("cluster", "multicast"):
        assert explained(64, 32, 128, 128, engine=engine, gpu=A100)[0] == ["stepwise", "stepwise"]
    names, text = explained(64, 32, 128, 128, engine="multicast", dtype=torch.float64)
    assert names == ["stepwise", "stepwise"] and "no multicast" in text


def test_the_engine_is_put_back_behind_an_error():
    with pytest.raises(KeyError), cuda_engine("grid"):
        raise KeyError
    wrong = "expected auto, stepwise, block, cluster, grid or multicast, got x"
    with pytest.raises(ValueError, match=wrong), cuda_engine("x"):
        raise AssertionError
    assert rnndrop_cuda._C.cuda_engine() == "auto"


@pytest.mark.parametrize("dtype", engines.DTYPES, ids=str)
@pytest.mark.parametrize("H", [1, 7, 96, 128, 160, 256, 512, 1024])
def test_no_plan_exceeds_the_gpu(dtype, H):
    for B in (1, 16, 64, 300):
        for engine in engines.ENGINES:
            _, text = explained(10, B, 1, H, engine=engine, dtype=dtype)
            for line in text.splitlines():
                if "KiB" in line:
                    assert int(line.split(" KiB")[0].split()[-1]) <= H100.shared_memory / 1024
                    assert int(line.split(" threads")[0].split()[-1]) <= 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 1), "T: expected a size of at least 1, got 0"),
        ((1, 1, 1, 1, torch.int8), "dtype: expected one of float64, float32, bfloat16, float16, got torch.int8"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain_engine(*arguments)


def test_info_explains_a_shape(capsys):
    assert info.main(["--shape", "32,128,300,16", "--dtype", "bfloat16", "--gpu", "h100"]) == 0
    assert capsys.readouterr().out.startswith("forward   block: 16 group(s)")


@pytest.mark.parametrize("shape", ["32,128", "a,b,c,d", "0,1,1,1"])
def test_info_refuses_a_shape(capsys, shape):
    with pytest.raises(SystemExit) as stopped:
        info.main(["--shape", shape])
    assert stopped.value.code == 2
    assert f"--shape: expected four whole numbers of at least 1, T,B,I,H, got {shape!r}" in capsys.readouterr().err


def test_the_current_gpus_driver_is_asked(monkeypatch):
    """What the driver refuses is not listed under an engine's name; of a GPU that is named nobody is asked."""
    asked = []

    class WithCuda:
        @staticmethod
        def explain_on_current_gpu(*arguments):
            asked.append(arguments)
            return "stepwise: no room", "stepwise: no room"

        explain_cuda_engine = staticmethod(engines._kernels().explain_cuda_engine)

    monkeypatch.setattr(engines, "_kernels", lambda: WithCuda)
    monkeypatch.setattr(ops, "HAS_CUDA_KERNELS", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (
        explain_engine(1024, 16, 768, 768, torch.float16) == "forward   stepwise: no room\nbackward  stepwise: no room"
    )
    assert asked == [("float16", True, 1024, 16, 768)]
    assert "grid" in explain_engine(1024, 16, 768, 768, torch.float16, gpu=H100)
    assert len(asked) == 1
