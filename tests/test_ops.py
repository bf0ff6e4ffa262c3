"""The op: its derivatives of any order, its own checks, its registration with PyTorch, every vector width."""

import os
import subprocess
import sys

import pytest
import torch

from rnndrop_cuda import ops, reference
from rnndrop_cuda.functional import NAMES, lstm_layer
from tests.modules import H, T
from tests.problems import (
    CONSTANTS,
    INPUTS,
    MASK_KINDS,
    OUTPUTS,
    Problem,
    assert_equals_reference,
    cpu_layer,
    random_problem,
    relative_error,
)
from tests.wrong_arguments import BAD, good_arguments, wrong

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")


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


@pytest.mark.parametrize("need_dx, need_dW", [(False, True), (True, False), (False, False)])
def test_double_backward_takes_a_gradient_for_what_was_left_out(need_dx, need_dW):
    """torch.compile gives every output of a graph one, also the empty tensor in place of a dx that nobody wants."""
    problem = random_problem(3, 2, 2, 3, masks="both")
    tensors = [problem.inputs.get(name, problem.options.get(name)) for name in NAMES]
    *outputs, gates, c, h_full = ops.lstm_layer(*tensors, False, True)
    inputs = [t.detach().requires_grad_() if t is not None and t.is_floating_point() else t for t in tensors]
    upstream = [problem.upstream[k].requires_grad_() for k in OUTPUTS]

    def second_derivatives(with_empty):
        first = ops.lstm_layer_backward(
            *inputs[: ops.N_INPUTS], *tensors[ops.N_INPUTS :], False, outputs[0], gates, c, h_full, *upstream, need_dx,
            need_dW,
        )  # fmt: skip
        total = sum(g.sin().sum() for g in first if with_empty or g.numel())
        return torch.autograd.grad(total, upstream)

    for ours, theirs in zip(second_derivatives(True), second_derivatives(False), strict=True):
        assert torch.equal(ours, theirs)


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


def test_the_op_refuses_a_backward_that_it_saved_nothing_for():
    problem = random_problem()
    x, *others = (problem.inputs[name] for name in INPUTS)
    y, *_ = torch.ops.rnndrop.lstm_layer(x.requires_grad_(), *others, *[None] * 8, False, False)
    with pytest.raises(RuntimeError, match="called with save=False"):
        y.sum().backward()


def test_meta_tensors_beside_others_are_refused():
    """They run the op's shapes in place of a kernel, which gave tensors that nothing had been written to."""
    arguments = (*[torch.zeros(shape) for shape in ((5, 3, 4), (3, 6), (3, 6), (24, 4))], torch.zeros(24, 6))
    for k in range(1, 5):
        given = [tensor.to("meta") if n == k else tensor for n, tensor in enumerate(arguments)]
        with pytest.raises(RuntimeError, match="expected all tensors on cpu like x, got one on meta"):
            torch.ops.rnndrop.lstm_layer(*given, *[None] * 10, False, False)


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
    assert_equals_reference(problem, compiled)


NO_AVX512 = not torch.cpu._is_avx512_supported()
NO_AMX = not torch.cpu._is_amx_tile_supported()


CAPABILITIES = [
    ("default", "1"),
    ("avx2", "1"),
    pytest.param("avx512", "0", marks=pytest.mark.skipif(NO_AVX512, reason="no AVX-512 here")),
    pytest.param("avx512", "1", marks=pytest.mark.skipif(NO_AMX, reason="no AMX here")),
]


@pytest.mark.parametrize(("capability", "amx"), CAPABILITIES)
def test_every_vector_width(capability, amx):
    """The kernel for each width that torch may pick; in a process of its own, since it is picked once."""
    program = (
        "import torch; from tests.problems import *; from rnndrop_cuda import functional, _C\n"
        "layer = lambda *inputs, **options: functional.lstm_layer(*inputs, **options, backend='cpu')\n"
        "for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):\n"
        "    for masks in ('both', 'gal-batch', 'untied-batch', 'semeniuta-shared'):\n"
        "        problem = random_problem(3, 5, 7, 129, masks=masks, lengths=True, dtype=dtype)\n"
        "        assert_equals_reference(problem, layer)\n"
        "print(_C.vector_isa(), int(_C.uses_amx()))"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "RNNDROP_AMX": amx}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=os.path.dirname(os.path.dirname(__file__)),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    widest = torch.backends.cpu.get_cpu_capability()
    asked = {"default": "baseline", "avx2": "AVX2", "avx512": "AVX512"}[capability]
    order = ["baseline", "AVX2", "AVX512"]
    if widest in order and order.index(asked) <= order.index(widest):
        uses_amx = asked == "AVX512" and amx == "1"
        assert done.stdout.split() == [asked, str(int(uses_amx))]


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_op_called_directly_checks_by_itself():
    """A graph made by torch.compile or export, or a hand-written call, does not come through functional.

    With a meta tensor among its arguments the op is the dispatcher's meta kernel, which computes nothing.
    """
    arguments = good_arguments()
    order = [*INPUTS, "W_hr", *CONSTANTS]
    for name, change, _, message in BAD:
        if name == "backend" or not callable(change) or "values in" in message or "got meta" in message:
            continue
        bad = wrong(name, change)
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
            torch.ops.rnndrop.lstm_layer(*(bad.get(k) for k in order), False, True)
    torch.ops.rnndrop.lstm_layer(*(arguments.get(k) for k in order), False, True)


@pytest.mark.parametrize(
    "I, H, message",
    [(2**31, 1, "x: expected at most 2147483647 features"), (1, 2**29, "W_hh: expected at most 2147483647 rows")],
)
def test_sizes_that_the_kernels_cannot_count_are_refused(I, H, message):
    one = torch.zeros(1)
    with pytest.raises(RuntimeError, match=message):
        lstm_layer(one.expand(1, 1, I), None, None, one.expand(4 * H, I), one.expand(4 * H, H))


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_op_is_safe_where_lengths_are_out_of_range():
    """As on CUDA: taken as the nearest of 0 and T."""
    arguments = good_arguments()
    order = [*INPUTS, "W_hr", *CONSTANTS[:-1]]
    inputs = [arguments.get(k) for k in order]
    outside = torch.ops.rnndrop.lstm_layer(*inputs, torch.tensor([-7, 2, 99]), False, True)
    inside = torch.ops.rnndrop.lstm_layer(*inputs, torch.tensor([0, 2, T]), False, True)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_backward_op_checks_by_itself():
    arguments = good_arguments()
    arguments["W_hr"] = torch.randn(H, H, dtype=torch.float64)
    inputs = [arguments.get(k) for k in (*INPUTS, "W_hr", *CONSTANTS)]
    y, h_n, c_n, gates, c, h_full = torch.ops.rnndrop.lstm_layer(*inputs, False, True)
    good = {"dy": y, "dh_n": h_n, "dc_n": c_n, "y": y, "gates": gates, "c": c, "h_full": h_full}

    def call(dy, dh_n, dc_n, y, gates, c, h_full):
        return torch.ops.rnndrop.lstm_layer_backward(*inputs, False, y, gates, c, h_full, dy, dh_n, dc_n, True, True)

    call(**good)
    for name, tensor in good.items():
        for bad in (tensor[1:], tensor.half(), tensor[..., None]):
            with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
                call(**good | {name: bad})


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_without_a_projection_the_backward_op_takes_no_h_full():
    arguments = good_arguments()
    inputs = [arguments.get(k) for k in (*INPUTS, "W_hr", *CONSTANTS)]
    y, _, _, gates, c, h_full = torch.ops.rnndrop.lstm_layer(*inputs, False, True)
    rest = (y, None, None, True, True)
    torch.ops.rnndrop.lstm_layer_backward(*inputs, False, y, gates, c, h_full, *rest)
    for bad in (y, h_full[:, None], h_full.half()):
        with pytest.raises((RuntimeError, ValueError), match="h_full: expected"):
            torch.ops.rnndrop.lstm_layer_backward(*inputs, False, y, gates, c, bad, *rest)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
@pytest.mark.parametrize("proj", [0, 2])
def test_the_op_takes_states_with_gaps(proj):
    """Every other column of a wider tensor, of the states that come in and of those that the forward kept."""

    def with_gaps(tensor):
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"))
        wide[..., ::2] = tensor
        return wide[..., ::2]

    for dtype in (torch.float64, torch.bfloat16):
        problem = random_problem(masks="all", lengths=True, proj=proj, dtype=dtype)
        inputs = [problem.inputs.get(name) for name in (*INPUTS, "W_hr")]
        inputs += [problem.options.get(name) for name in CONSTANTS]
        upstream = [problem.upstream[name] for name in OUTPUTS]
        results = []
        for spread in (lambda tensor: tensor, with_gaps):
            given = [inputs[0], *map(spread, inputs[1:3]), *inputs[3:]]
            y, *final, gates, c, h_full = torch.ops.rnndrop.lstm_layer(*given, False, True)
            saved = [spread(t) if t.dim() > 1 else t for t in (y, gates, c, h_full)]
            gradients = torch.ops.rnndrop.lstm_layer_backward(*given, False, *saved, *map(spread, upstream), True, True)
            results.append([y, *final, *gradients])
        assert all(map(torch.equal, *results))


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("B, I", [(0, 3), (2, 0), (0, 0)])
def test_an_empty_dimension_reaches_no_product(dtype, B, I):
    """oneDNN once divided by it, a SIGFPE."""
    for proj in (0, 2):
        problem = random_problem(3, B, I, 6, masks="gal-sample", proj=proj, dtype=dtype)
        solved = problem.solve(cpu_layer)
        assert solved["y"].shape == (3, B, proj or 6)
        assert not any(tensor.isnan().any() for tensor in solved.values())
