"""bfloat16 and float16 on the CPU: pairs of columns, weights read where they lie, rows that are converted."""

import itertools

import pytest
import torch

from rnndrop_cuda import ops
from tests.problems import (
    INPUTS,
    MASK_KINDS,
    OUTPUTS,
    assert_at_most_twice_plain_torchs_error,
    cpu_layer,
    random_problem,
)

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")

DTYPES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_the_steps_come_in_chunks(dtype, masks, lengths, reverse):
    """So many samples that a step makes a chunk, whose rows are more than the gradients of the weights take at once."""
    torch.manual_seed(0)
    options = {"masks": masks, "lengths": lengths, "reverse": reverse, "dtype": dtype}
    assert_at_most_twice_plain_torchs_error(random_problem(7, 600, 5, 9, **options), cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_matrices_are_large(dtype, masks):
    torch.manual_seed(0)
    assert_at_most_twice_plain_torchs_error(random_problem(4, 128, 300, 256, masks=masks, dtype=dtype), cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_rows_are_long(dtype, masks):
    """Those of x and da, which are copied to begin at cache lines: longer than 1365 elements."""
    torch.manual_seed(0)
    problem = random_problem(2, 26, 1371, 350, masks=masks, lengths=True, dtype=dtype)
    assert_at_most_twice_plain_torchs_error(problem, cpu_layer)


@pytest.mark.parametrize("B", [7, 20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_rows_of_a_weight_are_too_long_to_widen_several(dtype, B):
    """Longer than 4096 elements."""
    torch.manual_seed(0)
    assert_at_most_twice_plain_torchs_error(random_problem(1, B, 4107, 70, masks="none", dtype=dtype), cpu_layer)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("B", [1, 3, 9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_few_rows_meet_a_weight_from_far_away(dtype, B):
    """Larger than caches are, so that it is fetched ahead, and packed for fewer rows than others."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        assert_at_most_twice_plain_torchs_error(random_problem(1, B, 3, 1261, masks="none", dtype=dtype), cpu_layer)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 257, 96), (1, 13, 257, 98), (2, 3, 130, 65), (3, 5, 64, 128), (2, 40, 31, 33)]
)
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_at_awkward_sizes(dtype, masks, sizes):
    """Odd numbers of columns, and rows that are too few to pack a weight for."""
    for lengths, reverse in itertools.product((False, True), (False, True)):
        torch.manual_seed(1)
        problem = random_problem(*sizes, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_at_most_twice_plain_torchs_error(problem, cpu_layer)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("masks", ["none", "gal-batch", "semeniuta-shared", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_where_threads_share_out_the_units(dtype, masks):
    torch.manual_seed(0)
    assert_at_most_twice_plain_torchs_error(random_problem(9, 3, 33, 130, masks=masks, dtype=dtype), cpu_layer)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "sizes", [(40, 20, 6, 8), (45, 1, 5, 12), (30, 2, 300, 64), (9, 3, 33, 130), (3, 3, 64, 64), (9, 1, 300, 64)]
)
@pytest.mark.parametrize("masks", ["none", "gal-batch", "semeniuta-shared"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_steps_converted_together(dtype, masks, sizes, threads):
    """The last of them are fewer; threads share out rows, units or the steps of x. The same bits every time."""
    torch.set_num_threads(threads)
    for lengths, reverse in itertools.product((False, True), (False, True)):
        torch.manual_seed(0)
        problem = random_problem(*sizes, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_at_most_twice_plain_torchs_error(problem, cpu_layer)
        first, again = problem.solve(cpu_layer), problem.solve(cpu_layer)
        assert all(torch.equal(first[name], again[name]) for name in first)
        with torch.no_grad():  # no gates are saved: nothing is converted together
            outputs = cpu_layer(*(problem.inputs[name] for name in INPUTS), **problem.options)
        assert all(torch.equal(output, first[name]) for name, output in zip(OUTPUTS, outputs, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "both", "zoneout", "untied-sample", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_with_a_projection(dtype, masks, lengths, reverse):
    torch.manual_seed(0)
    options = {"masks": masks, "lengths": lengths, "reverse": reverse, "dtype": dtype}
    assert_at_most_twice_plain_torchs_error(random_problem(6, 8, 32, 48, proj=20, **options), cpu_layer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masks", MASK_KINDS)
def test_without_a_gradient_to_come_the_outputs_are_the_same_bits_in_chunks(masks, dtype):
    for lengths, reverse in itertools.product((False, True), (False, True)):
        problem = random_problem(7, 600, 4, 9, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        expected = problem.solve(cpu_layer)
        outputs = cpu_layer(*(problem.inputs[name] for name in INPUTS), **problem.options)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            assert torch.equal(output, expected[name])


@pytest.mark.parametrize("sizes", [(7, 600, 4, 9), (4, 128, 300, 256), (9, 3, 33, 65)])
@pytest.mark.parametrize("masks", ["none", "both"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_for_bit_the_same_on_every_run(dtype, masks, sizes):
    problem = random_problem(*sizes, masks=masks, dtype=dtype)
    first = problem.solve(cpu_layer)
    for _ in range(3):
        again = problem.solve(cpu_layer)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_mask_drops_has_no_part(dtype):
    """Columns are left out, not multiplied by zero: what is there may be anything."""
    problem = random_problem(6, 4, 33, 40, masks="gal-batch", dtype=dtype)
    dropped = problem.options["mask_x"] == 0
    assert dropped.any() and not dropped.all()
    expected = problem.solve(cpu_layer)
    problem.inputs["W_ih"][:, dropped] = float("inf")
    actual = problem.solve(cpu_layer)
    for name in ("y", "h_n", "c_n", "dW_ih", "dW_hh", "db_ih", "dx", "dh_0"):
        assert torch.equal(actual[name], expected[name]), name
    assert not actual["dW_ih"][:, dropped].any() and not actual["dx"][..., dropped].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masks", ["none", "gal-sample", "all"])
def test_empty_batch(masks, dtype):
    result = random_problem(4, 0, 3, 5, masks=masks, dtype=dtype).solve(cpu_layer)
    assert result["y"].shape == (4, 0, 5)
    assert all(not result[name].any() for name in ("dW_ih", "dW_hh", "db_ih", "db_hh"))
