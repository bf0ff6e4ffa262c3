"""The op on the CPU kernels against the reference: every output, every gradient, every mask kind, every dtype."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from problems import (
    CONSTANTS,
    INPUTS,
    MASK_KINDS,
    OUTPUTS,
    Problem,
    assert_equals_reference,
    random_mask,
    random_problem,
    relative_error,
)

from rnndrop_cuda import ops, reference
from rnndrop_cuda.functional import lstm_layer

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")

# Ones, odd sizes, and sizes below, at and past the 64 elements that a kernel takes at once.
SIZES = [(1, 1, 1, 1), (5, 3, 4, 6), (2, 7, 1, 31), (3, 2, 33, 64), (2, 5, 3, 129)]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


def cpu_layer(*args, **kwargs):
    return lstm_layer(*args, backend="cpu", **kwargs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_reference(dtype, masks, lengths, reverse):
    for sizes in SIZES:
        problem = random_problem(*sizes, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_equals_reference(problem, cpu_layer, TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equals_reference_with_a_projection(dtype, masks, lengths, reverse):
    """Narrower than the state, one wide, and wider, which nn.LSTM does not allow."""
    for sizes, proj in (((5, 3, 4, 6), 2), ((2, 4, 3, 33), 1), ((3, 2, 5, 4), 7)):
        problem = random_problem(*sizes, proj=proj, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        assert_equals_reference(problem, cpu_layer, TOLERANCE[dtype])


@pytest.mark.parametrize("p", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("masks", [kind for kind in MASK_KINDS if kind != "none"])
def test_equals_reference_at_every_p(masks, p):
    problem = random_problem(masks=masks, p=p)
    assert_equals_reference(problem, cpu_layer, 1e-13)


def test_equals_reference_where_matrices_are_large():
    """Large enough for the float32 GEMM library and for several threads."""
    problem = random_problem(4, 128, 300, 128, masks="both", dtype=torch.float32)
    assert_equals_reference(problem, cpu_layer, 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "both", "untied-sample", "all"])
@pytest.mark.parametrize("T", [5, 6, 11])
def test_equals_reference_where_the_steps_come_in_chunks(T, masks, reverse):
    """Batches so large that 5 steps make a chunk: just one, one more, and a last one that is short."""
    for lengths, proj in ((False, 0), (True, 3)):
        problem = random_problem(T, 200, 3, 5, proj=proj, masks=masks, lengths=lengths, reverse=reverse)
        assert_equals_reference(problem, cpu_layer, 1e-12)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("masks", [*MASK_KINDS])
def test_equals_reference_however_threads_share_the_work(masks, threads):
    """Rows of the batch or, where it is small, units; with units and columns that are no multiple of a panel."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for (B, H), ragged in itertools.product(((2, 130), (60, 37)), (False, True)):
            options = {"masks": masks, "lengths": ragged, "reverse": ragged, "dtype": torch.float32}
            assert_equals_reference(random_problem(9, B, 21, H, **options), cpu_layer, 1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "both", "untied-batch", "all"])
def test_equals_reference_where_the_batch_is_large(masks):
    """The gradients of the weights then take the rows of a step in several pieces."""
    assert_equals_reference(random_problem(2, 1000, 5, 7, masks=masks), cpu_layer, 1e-12)


@pytest.mark.parametrize("mask_h", [(45,), (20, 45), (4, 1, 45), (4, 20, 45)])
@pytest.mark.parametrize("mask_x", [(37,), (20, 37), (4, 1, 37), (4, 20, 37)])
def test_equals_reference_where_units_have_no_candidate(mask_x, mask_h):
    """Their rows of i and g are left out, beside the columns that the other masks drop."""
    problem = random_problem(7, 20, 37, 45, masks="semeniuta-shared", lengths=True)
    problem.options |= {"mask_x": random_mask(mask_x), "mask_h": random_mask(mask_h)}
    assert_equals_reference(problem, cpu_layer, 1e-12)
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
    assert_equals_reference(problem, cpu_layer, 1e-13)


@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "semeniuta-step", "both", "zoneout", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_at_most_twice_that_of_plain_torch(dtype, masks):
    """The same rounded inputs through the kernel and through plain torch in this dtype, both against float64."""
    for seed in range(3):
        torch.manual_seed(seed)
        problem = random_problem(6, 8, 32, 48, masks=masks, dtype=dtype)
        exact = problem.to(torch.float64).solve(reference.lstm_layer)
        plain, fused = problem.solve(reference.lstm_layer), problem.solve(cpu_layer)
        for name in exact:
            ours, theirs = (relative_error(result[name], exact[name]) for result in (fused, plain))
            assert ours <= 2 * theirs + 1e-7, f"{name}: {ours:.3g} against {theirs:.3g}"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masks", MASK_KINDS)
def test_gradcheck(masks, reverse):
    problem = random_problem(3, 2, 2, 3, masks=masks, lengths=True, reverse=reverse)
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]
    assert torch.autograd.gradcheck(lambda *inputs: cpu_layer(*inputs, **problem.options), inputs)


@pytest.mark.parametrize("masks", ["none", "both", "all"])
def test_gradcheck_and_gradgradcheck_with_a_projection(masks):
    problem = random_problem(2, 2, 2, 3, proj=2, masks=masks, lengths=True)
    inputs = [problem.inputs[name].requires_grad_() for name in (*INPUTS, "W_hr")]

    def layer(*inputs):
        return cpu_layer(*inputs[:-1], W_hr=inputs[-1], **problem.options)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


@pytest.mark.parametrize("masks", ["both", "all"])
def test_double_backward_equals_the_reference(masks):
    problem = random_problem(3, 2, 2, 3, masks=masks, lengths=True)

    def second_derivatives(layer):
        inputs = [problem.inputs[name].detach().clone().requires_grad_() for name in INPUTS]
        outputs = layer(*inputs, **problem.options)
        first = torch.autograd.grad(outputs, inputs, [problem.upstream[k] for k in OUTPUTS], create_graph=True)
        return torch.autograd.grad([g.sin().sum() for g in first], inputs)

    for ours, theirs in zip(second_derivatives(cpu_layer), second_derivatives(reference.lstm_layer), strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_third_derivative_equals_the_reference():
    problem = random_problem(2, 2, 2, 3, masks="gal-batch")

    def third_derivative(layer):
        x = problem.inputs["x"].detach().clone().requires_grad_()
        y, _, _ = layer(x, *(problem.inputs[name] for name in INPUTS[1:]), **problem.options)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sin().sum(), x, create_graph=True)
        (third,) = torch.autograd.grad(second.sin().sum(), x)
        return third

    assert relative_error(third_derivative(cpu_layer), third_derivative(reference.lstm_layer)) < 1e-11


def test_first_derivative_under_create_graph_is_the_fused_one():
    """Only a second derivative pays for the replay."""
    problem = random_problem(masks="gal-batch")
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]
    y, _, _ = cpu_layer(*inputs, **problem.options)
    plain = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    with_graph = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, with_graph, strict=True))
    assert all(g.requires_grad for g in with_graph)


def test_double_backward_where_inputs_depend_on_each_other():
    """W_hh made from W_ih: the way through it must be counted once."""
    problem = random_problem(2, 2, 3, 3)

    def second_derivative(layer):
        leaf = problem.inputs["W_ih"].detach().clone().requires_grad_()
        inputs = [problem.inputs[name] for name in INPUTS]
        y, _, _ = layer(*inputs[:3], leaf, leaf**2, *inputs[5:])
        (first,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.sin().sum(), leaf)
        return first, second

    for ours, theirs in zip(second_derivative(cpu_layer), second_derivative(reference.lstm_layer), strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("used", [["y"], ["h_n"], ["c_n"], ["h_n", "c_n"]])
def test_upstream_gradients_may_be_missing(used):
    problem = random_problem(masks="both", lengths=True)
    unused = {name: torch.zeros_like(grad) for name, grad in problem.upstream.items() if name not in used}
    expected = Problem(problem.inputs, problem.options, problem.upstream | unused).solve(reference.lstm_layer)
    leaves = {k: v.clone().requires_grad_() for k, v in problem.inputs.items()}
    outputs = dict(zip(OUTPUTS, cpu_layer(*leaves.values(), **problem.options), strict=True))
    gradients = torch.autograd.grad(
        [outputs[k] for k in used], list(leaves.values()), [problem.upstream[k] for k in used]
    )
    for name, gradient in zip(leaves, gradients, strict=True):
        assert relative_error(gradient, expected["d" + name]) < 1e-12, name


@pytest.mark.parametrize("wanted", [["x"], ["h_0"], ["c_0"], ["W_ih"], ["W_hh"], ["b_ih"], ["b_hh"], ["x", "b_hh"]])
def test_gradients_of_a_subset_of_the_inputs(wanted):
    problem = random_problem(masks="gal-sample")
    expected = problem.solve(reference.lstm_layer)
    inputs = {k: v.clone().requires_grad_(k in wanted) for k, v in problem.inputs.items()}
    outputs = cpu_layer(*inputs.values(), **problem.options)
    gradients = torch.autograd.grad(outputs, [inputs[k] for k in wanted], [problem.upstream[k] for k in OUTPUTS])
    for name, gradient in zip(wanted, gradients, strict=True):
        assert relative_error(gradient, expected["d" + name]) < 1e-12, name


def test_backward_twice_through_one_graph():
    problem = random_problem(masks="both")
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]
    y, _, _ = cpu_layer(*inputs, **problem.options)
    first = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(y.sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_changed_output_is_noticed_in_backward():
    problem = random_problem()
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]
    y, h_n, _ = cpu_layer(*inputs)
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h_n.sum().backward()


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
            expected = [*reference.lstm_layer(*problem.inputs.values(), **problem.options)]
            place[name] = view
            actual = [*cpu_layer(*problem.inputs.values(), **problem.options)]
            assert all(relative_error(a, e) < 1e-13 for a, e in zip(actual, expected, strict=True))


def test_expanded_upstream_gradient():
    """What y.sum() hands back: one number, expanded."""
    problem = random_problem(masks="both")
    upstream = {k: torch.ones((), dtype=torch.float64).expand(v.shape) for k, v in problem.upstream.items()}
    assert_equals_reference(Problem(problem.inputs, problem.options, upstream), cpu_layer, 1e-13)


@pytest.mark.parametrize("masks", ["none", "gal-sample", "semeniuta-step"])
def test_empty_batch(masks):
    problem = random_problem(4, 0, 3, 5, masks=masks, lengths=masks == "none")
    result = problem.solve(cpu_layer)
    assert result["y"].shape == (4, 0, 5)
    assert result["dW_hh"].shape == (20, 5)
    assert all(not result[name].any() for name in ("dW_ih", "dW_hh", "db_ih", "db_hh"))


def test_no_input_features():
    assert_equals_reference(random_problem(3, 2, 0, 4, masks="mask_h-only"), cpu_layer, 1e-13)


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
    result = problem.solve(cpu_layer)
    assert all(value.isfinite().all() for value in result.values())


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
    for (T, B), lengths, reverse in itertools.product(((5, 3), (7, 150)), (False, True), (False, True)):
        problem = random_problem(T, B, 4, 9, masks=masks, lengths=lengths, reverse=reverse, dtype=dtype)
        expected = problem.solve(cpu_layer)
        outputs = cpu_layer(*(problem.inputs[name] for name in INPUTS), **problem.options)
        for name, output in zip(OUTPUTS, outputs, strict=True):
            assert torch.equal(output, expected[name])


def test_the_op_refuses_a_backward_that_it_saved_nothing_for():
    problem = random_problem()
    x, *others = (problem.inputs[name] for name in INPUTS)
    y, *_ = torch.ops.rnndrop.lstm_layer(x.requires_grad_(), *others, *[None] * 8, False, False)
    with pytest.raises(RuntimeError, match="called with save=False"):
        y.sum().backward()


@pytest.mark.parametrize("proj", [0, 2])
@pytest.mark.parametrize("masks", ["none", "gal-batch", "both", "untied-batch", "all"])
def test_opcheck(masks, proj):
    problem = random_problem(masks=masks, lengths=masks in ("both", "all"), proj=proj)
    options = [problem.options.get(name) for name in CONSTANTS]
    inputs = [problem.inputs[name].requires_grad_() for name in INPUTS]
    W_hr = problem.inputs["W_hr"].requires_grad_() if proj else None
    arguments = (*inputs, W_hr, *options, False)
    torch.library.opcheck(torch.ops.rnndrop.lstm_layer, (*arguments, True))
    without = (None if t is None else t.detach() for t in arguments[:-1])
    torch.library.opcheck(torch.ops.rnndrop.lstm_layer, (*without, False, False))

    y, _, _, *saved = (t.detach() for t in torch.ops.rnndrop.lstm_layer(*arguments, True))
    upstream = [problem.upstream[name] for name in OUTPUTS]
    for need_dx, need_dW in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(
            torch.ops.rnndrop.lstm_layer_backward,
            (*arguments, y, *saved, *upstream, need_dx, need_dW),
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
        )


def test_compiles_without_graph_break():
    problem = random_problem(masks="gal-batch", dtype=torch.float32)
    compiled = torch.compile(cpu_layer, fullgraph=True, backend="aot_eager")
    assert_equals_reference(problem, compiled, 1e-5)


NO_AVX512 = not torch.cpu._is_avx512_supported()
CAPABILITIES = [
    "default",
    "avx2",
    pytest.param("avx512", marks=pytest.mark.skipif(NO_AVX512, reason="no AVX-512 here")),
]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_vector_width(capability):
    """The kernel for each width that torch may pick; in a process of its own, since it is picked once."""
    program = (
        "import sys, torch; sys.path.insert(0, 'tests')\n"
        "from problems import *; from rnndrop_cuda import functional, _C\n"
        "for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)):\n"
        "    problem = random_problem(3, 5, 7, 129, masks='both', lengths=True, dtype=dtype)\n"
        "    assert_equals_reference(problem, functional.lstm_layer, tolerance, backend='cpu')\n"
        "print(_C.vector_isa())"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=os.path.dirname(os.path.dirname(__file__)),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    widest = torch.backends.cpu.get_cpu_capability()
    asked = {"default": "baseline", "avx2": "AVX2", "avx512": "AVX512"}[capability]
    order = ["baseline", "AVX2", "AVX512"]
    if widest in order and order.index(asked) <= order.index(widest):
        assert done.stdout.strip() == asked
