"""The layer as a function, on the CPU kernels against the reference: every output and gradient, mask kind and dtype."""

import itertools
import platform

import pytest
import torch

from rnndrop_cuda import ops, reference
from rnndrop_cuda.functional import lstm_layer
from tests.problems import (
    CONSTANTS,
    INPUTS,
    MASK_KINDS,
    OUTPUTS,
    Problem,
    assert_at_most_twice_plain_torchs_error,
    assert_equals_reference,
    cpu_layer,
    random_mask,
    random_problem,
    relative_error,
)

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")


# Ones, odd sizes, and sizes below, at and past the 64 elements that a kernel takes at once.
SIZES = [(1, 1, 1, 1), (5, 3, 4, 6), (2, 7, 1, 31), (3, 2, 33, 64), (2, 5, 3, 129)]
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference(dtype, masks, lengths, reverse):
    for sizes in SIZES:
        problem = random_problem(*sizes, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_with_a_projection(dtype, masks, lengths, reverse):
    """Narrower than the state, one wide, and wider, which nn.LSTM does not allow; few rows times long ones."""
    for sizes, proj in (((5, 3, 4, 6), 2), ((2, 4, 3, 33), 1), ((3, 2, 5, 4), 7), ((2, 3, 130, 9), 131)):
        problem = random_problem(*sizes, proj=proj, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_reference_with_a_projection_of_many_rows(dtype, masks, reverse):
    """Several blocks of rows, of which many are past their ends."""
    for lengths in (False, True):
        options = {"masks": masks, "lengths": lengths, "reverse": reverse, "dtype": dtype}
        problem = random_problem(4, 80, 100, 40, proj=13, **options)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("p", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("masks", [kind for kind in MASK_KINDS if kind != "none"])
def test_equals_reference_at_every_p(masks, p):
    problem = random_problem(masks=masks, p=p)
    assert_equals_reference(problem, cpu_layer)


def test_equals_reference_where_matrices_are_large():
    """Large enough for the float32 GEMM library and for several threads."""
    problem = random_problem(4, 128, 300, 128, masks="both", dtype=torch.float32)
    assert_equals_reference(problem, cpu_layer)


# Several blocks of rows, the last one short: rows without a gap in blocks of 24 and of 12, and units in blocks. x that
# goes along with h, and x that has a product of its own.
BLOCKS = [(3, 30, 5, 20), (2, 51, 90, 20), (3, 30, 7, 100), (3, 30, 130, 100), (2, 26, 9, 200), (2, 26, 70, 136)]


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "semeniuta-step", "semeniuta-shared"])
@pytest.mark.parametrize("sizes", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_where_rows_and_units_come_in_blocks(dtype, sizes, masks):
    problem = random_problem(*sizes, masks=masks, dtype=dtype)
    assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-batch"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_for_every_number_of_rows(dtype, masks):
    """Each has a kernel of its own. More than are multiplied without packing; half a panel and one and a half."""
    for B in range(1, 14):
        assert_equals_reference(random_problem(70 // B + 1, B, 16, 48, masks=masks, dtype=dtype), cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "untied-batch", "all"])
@pytest.mark.parametrize("sizes", [(2, 26, 701, 30), (2, 26, 5, 699)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_where_rows_are_long(dtype, sizes, masks):
    """Rows of x or h that are copied to begin at cache lines: longer than 682 elements in float32, 341 in float64."""
    for lengths in (False, True):
        problem = random_problem(*sizes, masks=masks, lengths=lengths, reverse=lengths, dtype=dtype)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [20], indirect=True)
@pytest.mark.parametrize("masks", ["none", "gal-batch"])
@pytest.mark.parametrize(("I", "H", "proj"), [(300, 100, 0), (5, 250, 0), (5, 250, 140)])
def test_equals_reference_on_more_threads_than_there_are_units_to_share(I, H, proj, masks):
    """They share out the units by whole vectors, in the backward by panels: some of the threads have none."""
    problem = random_problem(40, 2, I, H, proj=proj, masks=masks, dtype=torch.float32)
    assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "both", "untied-sample", "all"])
@pytest.mark.parametrize("T", [5, 6, 11])
def test_equals_reference_where_the_steps_come_in_chunks(T, masks, reverse):
    """Batches so large that 5 steps make a chunk: just one, one more, and a last one that is short."""
    for lengths, proj in ((False, 0), (True, 3)):
        problem = random_problem(T, 200, 3, 5, proj=proj, masks=masks, lengths=lengths, reverse=reverse)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("masks", [*MASK_KINDS])
def test_equals_reference_however_threads_share_the_work(masks):
    """Rows of the batch or, where it is small, units; with units and columns that are no multiple of a panel."""
    for (B, H), ragged in itertools.product(((2, 130), (60, 37)), (False, True)):
        options = {"masks": masks, "lengths": ragged, "reverse": ragged, "dtype": torch.float32}
        assert_equals_reference(random_problem(9, B, 21, H, **options), cpu_layer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "B", "H"), [(2, 4, 260), (1, 3, 515), (2, 5, 515), (2, 1, 650)])
def test_equals_reference_where_few_rows_meet_a_large_weight(T, B, H, dtype):
    """Larger than caches that are near: its rows may be read from end to end, some of them at once."""
    assert_equals_reference(random_problem(T, B, 3, H, masks="none", dtype=dtype), cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("masks", ["none", "gal-batch", "all"])
def test_equals_reference_where_many_rows_meet_a_large_weight(masks):
    """More of them than are taken at a time, and so few that threads share out the units."""
    for B in (50, 130):
        assert_equals_reference(random_problem(2, B, 3, 260, masks=masks), cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("masks", [*MASK_KINDS])
def test_equals_reference_where_rows_are_too_few_to_pack_a_weight_for(masks):
    """Weights are then read where they lie; widths that are no multiple of a vector, and of what is read at once."""
    for T, B, I, H in ((1, 1, 131, 70), (1, 2, 100, 200), (3, 1, 45, 161), (4, 8, 259, 33)):
        for dtype in DTYPES:
            for reverse, lengths in ((False, False), (True, False), (True, True)):
                problem = random_problem(T, B, I, H, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
                assert_equals_reference(problem, cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2, 3], indirect=True)
@pytest.mark.parametrize("masks", ["none", "gal-batch", "all"])
def test_equals_reference_where_threads_share_the_steps_of_x(masks):
    """Fewer samples than threads; chunks of steps that are no multiple of the threads."""
    for T, B, I, lengths in ((95, 1, 70, False), (41, 2, 90, True), (387 if masks == "none" else 41, 1, 150, False)):
        problem = random_problem(T, B, I, 24, masks=masks, lengths=lengths, reverse=B == 2)
        assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_where_an_unpacked_weight_takes_several_blocks(dtype):
    """Of its own rows and of the batch's, aligned and not, with a part of a block at either end."""
    for masks, I, H in (("none", 301, 333), ("gal-sample", 320, 352)):
        assert_equals_reference(random_problem(1, 40, I, H, masks=masks, dtype=dtype), cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("masks", ["none", "gal-batch", "untied-batch", "semeniuta-shared"])
def test_equals_reference_where_panels_are_packed_as_they_are_multiplied(masks):
    """Those of x for all steps at once; those of h at the only step, or at each of few."""
    for T, B, I, H in ((1, 20, 70, 45), (1, 32, 515, 300), (4, 4, 300, 133), (2, 16, 40, 515), (8, 6, 100, 30)):
        for dtype in DTYPES:
            problem = random_problem(T, B, I, H, masks=masks, reverse=T == 2, lengths=T == 8, dtype=dtype)
            assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_equals_reference_where_a_mask_drops_columns_of_a_weight_that_few_rows_read(p):
    """The forward, dx and dh each leave them out or multiply them with 0; dW always leaves them out."""
    for T, B, I, H in ((1, 1, 131, 70), (1, 5, 80, 160), (3, 4, 64, 33), (16, 2, 200, 48), (1, 40, 400, 10)):
        for reverse in (False, True):
            problem = random_problem(T, B, I, H, masks="gal-batch", p=p, lengths=reverse, reverse=reverse)
            assert_equals_reference(problem, cpu_layer)
            problem.options["mask_h"] = None
            assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_infinite_weight_counts_once_where_few_rows_read_it(dtype):
    """The last columns are read as a whole vector, which has columns before them that count no more."""
    problem = random_problem(1, 1, 37, 5, masks="none", dtype=dtype)
    problem.inputs["W_ih"] = problem.inputs["W_ih"].detach().clone()
    problem.inputs["W_ih"][:, 30] = torch.inf
    y, expected = (layer(**problem.inputs, **problem.options)[0] for layer in (cpu_layer, reference.lstm_layer))
    assert expected.isfinite().all()
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "both", "untied-batch", "all"])
def test_equals_reference_where_the_batch_is_large(masks):
    """The gradients of the weights then take the rows of a step in several pieces."""
    assert_equals_reference(random_problem(2, 1000, 5, 7, masks=masks), cpu_layer)


@pytest.mark.parametrize("mask_h", [(45,), (20, 45), (4, 1, 45), (4, 20, 45)])
@pytest.mark.parametrize("mask_x", [(37,), (20, 37), (4, 1, 37), (4, 20, 37)])
def test_equals_reference_where_units_have_no_candidate(mask_x, mask_h):
    """Their rows of i and g are left out, beside the columns that the other masks drop."""
    problem = random_problem(7, 20, 37, 45, masks="semeniuta-shared", lengths=True)
    problem.options |= {"mask_x": random_mask(mask_x), "mask_h": random_mask(mask_h)}
    assert_equals_reference(problem, cpu_layer)
    dropped = problem.options["mask_g"] == 0
    assert dropped.any() and not dropped.all()
    result = problem.solve(cpu_layer)
    for name in ("dW_ih", "dW_hh", "db_ih"):
        i, f, g, o = result[name].chunk(4)
        assert not i[dropped].any() and not g[dropped].any(), name
        assert i[~dropped].any() and g[~dropped].any() and f[dropped].any() and o[dropped].any(), name


@pytest.mark.parametrize("bias", ["b_ih", "b_hh", "neither"])
def test_equals_reference_without_biases(bias):
    problem = random_problem()
    for name in ("b_ih", "b_hh"):
        if name != bias:
            problem.inputs[name] = None
    assert_equals_reference(problem, cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "semeniuta-step", "both", "zoneout", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_at_most_twice_that_of_plain_torch(dtype, masks):
    for seed in range(3):
        torch.manual_seed(seed)
        problem = random_problem(6, 8, 32, 48, masks=masks, dtype=dtype)
        assert_at_most_twice_plain_torchs_error(problem, cpu_layer)


@pytest.mark.parametrize("name", [*INPUTS, *CONSTANTS[:-1]])
def test_strides_do_not_matter(name):
    """Transposed, every other element, expanded: the same numbers as a dense copy."""
    for masks in ("gal-batch", "gal-sample", "semeniuta-step", "all"):
        problem = random_problem(masks=masks)
        place = problem.options if name in CONSTANTS else problem.inputs
        if name not in place:
            continue
        dense = place[name]
        views = [dense.mT.contiguous().mT if dense.dim() > 1 else dense,
                 torch.stack([dense, dense + 1], dim=-1)[..., 0],
                 dense.flatten()[:1].expand(dense.shape)]  # fmt: skip
        for view in views:
            place[name] = view.contiguous()
            expected = problem.solve(reference.lstm_layer)
            place[name] = view
            actual = problem.solve(cpu_layer)
            for result in expected:
                assert relative_error(actual[result], expected[result]) < 1e-12, result


def test_expanded_upstream_gradient():
    """What y.sum() hands back: one number, expanded."""
    problem = random_problem(masks="both")
    upstream = {k: torch.ones((), dtype=torch.float64).expand(v.shape) for k, v in problem.upstream.items()}
    assert_equals_reference(Problem(problem.inputs, problem.options, upstream), cpu_layer)


@pytest.mark.parametrize("masks", ["none", "gal-sample", "semeniuta-step"])
def test_empty_batch(masks):
    problem = random_problem(4, 0, 3, 5, masks=masks, lengths=masks == "none")
    result = problem.solve(cpu_layer)
    assert result["y"].shape == (4, 0, 5)
    assert result["dW_hh"].shape == (20, 5)
    assert all(not result[name].any() for name in ("dW_ih", "dW_hh", "db_ih", "db_hh"))


def test_no_input_features():
    assert_equals_reference(random_problem(3, 2, 0, 4, masks="mask_h-only"), cpu_layer)


@pytest.mark.parametrize("masks", ["none", "both"])
def test_bit_for_bit_the_same_on_every_run(masks):
    problem = random_problem(6, 40, 33, 65, masks=masks, dtype=torch.float32)
    first = problem.solve(cpu_layer)
    for _ in range(3):
        again = problem.solve(cpu_layer)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("proj", [0, 4])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", ["none", "semeniuta-shared", "all"])
def test_states_equal_the_reference(masks, lengths, reverse, proj):
    problem = random_problem(proj=proj, masks=masks, lengths=lengths, reverse=reverse)
    arguments = problem.inputs | problem.options
    *outputs, ours = lstm_layer(**arguments, backend="cpu", return_states=True)
    *_, theirs = lstm_layer(**arguments, backend="python", return_states=True)
    assert ours._fields == theirs._fields == ("h", "c", "i", "f", "g", "o")
    for name, ours_of, theirs_of in zip(ours._fields, ours, theirs, strict=True):
        assert relative_error(ours_of, theirs_of) < 1e-13, name
    assert torch.equal(ours.h, outputs[0])
    if not lengths:
        assert torch.equal(ours.c[0 if reverse else -1], outputs[2])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others take no longer for such numbers")
def test_gradients_too_small_to_be_normal_are_zero():
    """They would take many times as long, at every step that a vanishing gradient passes; and after it as before."""
    problem = random_problem(4, 3, 5, 6, dtype=torch.float32)
    problem.upstream = {name: torch.full_like(value, 1e-41) for name, value in problem.upstream.items()}
    found = problem.solve(cpu_layer)
    assert all(bool((found[name] == 0).all()) for name in ("dx", "dh_0", "dW_ih", "dW_hh"))
    assert torch.tensor(1e-41) * 1 != 0


def test_dropped_columns_get_no_gradient_and_no_nan():
    problem = random_problem(masks="gal-batch", p=1)
    result = problem.solve(cpu_layer)
    assert not result["dx"].any()
    assert not result["dW_ih"].any()
    assert not result["dW_hh"].any()
    assert all(value.isfinite().all() for value in result.values())


def test_large_pre_activations_saturate():
    problem = random_problem(dtype=torch.float32)
    problem.inputs["x"] = problem.inputs["x"].sign() * 1e4
    problem.inputs["W_ih"] = torch.ones_like(problem.inputs["W_ih"])
    assert_equals_reference(problem, cpu_layer)


def test_nan_stays_visible():
    problem = random_problem()
    problem.inputs["x"][0, 0, 0] = float("nan")
    y, _, _ = cpu_layer(*problem.inputs.values())
    assert y[:, 0].isnan().all()
    assert y[:, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("masks", MASK_KINDS)
def test_without_a_gradient_to_come_the_outputs_are_the_same_bits(masks, dtype):
    """Then nothing is saved for a backward: steps share their buffers."""
    sizes = [(7, 150, 4, 9), *SIZES, *BLOCKS]
    for of_problem, lengths, reverse in itertools.product(sizes, (False, True), (False, True)):
        problem = random_problem(*of_problem, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        expected = problem.solve(cpu_layer)
        outputs = cpu_layer(*(problem.inputs[name] for name in INPUTS), **problem.options)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            assert torch.equal(output, expected[name])
