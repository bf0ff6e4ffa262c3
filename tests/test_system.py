"""The layer among the rest of PyTorch: compilers, exporters, savers, wrappers, threads and processes."""

import copy
import io
import multiprocessing
import pickle
import threading

import pytest
import torch
from problems import relative_error
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from rnndrop_cuda import LSTM, dropout_mask, functional

NOT_USABLE = functional.usable_backends()


def backends(*names):
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(NOT_USABLE[name]), reason=NOT_USABLE[name])) for name in names
    ]


ANY_BACKEND = pytest.mark.parametrize("backend", backends("cuda", "cpu", "python"))
FUSED = pytest.mark.parametrize("backend", backends("cuda", "cpu"))
T, B, I, H = 5, 3, 4, 6
DROPOUT = {"dropout": 0.3, "input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.5}


def device_of(backend):
    return "cuda" if backend == "cuda" else "cpu"


def build(backend="auto", *, dtype=torch.float64, **options):
    """Two layers, two directions, every dropout there is."""
    options = {"num_layers": 2, "bidirectional": True, **DROPOUT} | options
    return LSTM(I, H, **options, backend=backend, dtype=dtype, device=device_of(backend))


def random_x(backend="auto", *, T=T, B=B, dtype=torch.float64):
    return torch.randn(T, B, I, dtype=dtype, device=device_of(backend))


def flat(output):
    y, (h_n, c_n) = output
    return [y, h_n, c_n]


def loss_of(output):
    return sum(value.sin().sum() for value in flat(output))


def training_step(model, x, *, seed=1, run=None, **options):
    """Outputs and all gradients of one step whose masks are drawn from this seed."""
    torch.manual_seed(seed)
    run = model if run is None else run
    x = x.detach().requires_grad_()
    output = run(x, **options)
    return [*flat(output), *torch.autograd.grad(loss_of(output), [x, *model.parameters()])]


def all_equal(actual, expected):
    return all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def assert_close(actual, expected, tolerance=1e-12):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert relative_error(a, e) < tolerance


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- torch.compile, torch.export, CUDA graphs


@ANY_BACKEND
@pytest.mark.parametrize("mask_scope", ["batch", "sample"])
def test_compile_draws_the_masks_inside_one_graph(backend, mask_scope):
    torch._dynamo.reset()
    model, x = build(backend, mask_scope=mask_scope), random_x(backend)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    first = training_step(model, x, run=compiled)
    assert counter.frame_count == 1
    drawn = [node for node in counter.graphs[0].graph.nodes if "randint" in str(node.target)]
    assert len(drawn) >= 3 * 4 + 1  # three masks a layer and direction, one between the layers
    assert_close(first, training_step(model, x))
    assert not torch.equal(training_step(model, x, seed=2, run=compiled)[0], first[0])
    assert counter.frame_count == 1


@FUSED
@pytest.mark.parametrize("training", [True, False])
def test_compile_serves_every_length_and_batch_with_one_graph(backend, training):
    torch._dynamo.reset()
    model = build(backend).train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    compilations = []
    for steps, batch in ((5, 3), (7, 3), (7, 2), (2, 9), (11, 4)):
        x = random_x(backend, T=steps, B=batch)
        assert_close(training_step(model, x, run=compiled), training_step(model, x))
        compilations.append(counter.frame_count)
    # The first call may take two: torch.compile starts again where it finds that a probability is a constant.
    assert compilations == compilations[:1] * 5


@FUSED
def test_compile_finds_out_by_itself_what_varies(backend):
    """Without dynamic=True: one graph for the first shape, one for each dimension found to vary, none after."""
    torch._dynamo.reset()
    model = build(backend)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for steps, batch in ((5, 3), (7, 3), (7, 2)):
        compiled(random_x(backend, T=steps, B=batch))
    found = counter.frame_count
    assert found <= 3
    for steps, batch in ((3, 5), (9, 4), (4, 8), (12, 6)):
        compiled(random_x(backend, T=steps, B=batch))
    assert counter.frame_count == found


@ANY_BACKEND
def test_compile_with_lengths(backend):
    torch._dynamo.reset()
    model, x = build(backend), random_x(backend)
    lengths = torch.tensor([5, 2, 4], device=x.device)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(training_step(model, x, run=compiled, lengths=lengths), training_step(model, x, lengths=lengths))


def exported(model, x, **options):
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), **options), file)
    file.seek(0)
    return torch.export.load(file).module()


@ANY_BACKEND
def test_export_saved_and_loaded_gives_the_same_numbers(backend):
    model, x = build(backend).eval(), random_x(backend)
    assert all_equal(flat(exported(model, x)(x)), flat(model(x)))


@FUSED
def test_export_keeps_length_and_batch_dynamic(backend):
    model = build(backend).eval()
    shape = {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}
    loaded = exported(model, random_x(backend), dynamic_shapes={"input": shape})
    for steps, batch in ((5, 3), (9, 4), (2, 7)):
        x = random_x(backend, T=steps, B=batch)
        assert all_equal(flat(loaded(x)), flat(model(x)))


@pytest.mark.gpu
@pytest.mark.skipif(bool(NOT_USABLE["cuda"]), reason=NOT_USABLE["cuda"])
def test_cuda_graph_replays_a_training_step():
    """Masks are arguments, so that the replay can be compared; draws inside a capture are torch's own business."""
    model = build("cuda", dtype=torch.float32)
    masks = model.draw_masks(T, B)
    x = random_x("cuda", dtype=torch.float32).requires_grad_()
    leaves = [x, *model.parameters()]

    def step():
        output = model(x, masks=masks)
        return [*flat(output), *torch.autograd.grad(loss_of(output), leaves)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for _ in range(2):
        with torch.no_grad():
            x.copy_(random_x("cuda", dtype=torch.float32))
        graph.replay()
        assert_close(results, step(), 1e-6)


# ---------------------------------------------------------------- autograd


@ANY_BACKEND
def test_backward_in_eval_mode_equals_nn_lstm(backend):
    """Dropout is off, gradients are not."""
    model, x = build(backend).eval(), random_x(backend)
    assert_close(training_step(model, x), training_step(model.to_torch(), x))


@ANY_BACKEND
def test_backward_twice_with_retain_graph_doubles_the_gradients(backend):
    model, x = build(backend), random_x(backend).requires_grad_()
    loss = loss_of(model(x))
    loss.backward(retain_graph=True)
    once = [t.grad.clone() for t in (x, *model.parameters())]
    loss.backward()
    assert all_equal([t.grad for t in (x, *model.parameters())], [2 * gradient for gradient in once])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@ANY_BACKEND
@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_gradgradcheck_with_every_dropout(backend, lengths):
    model, x = build(backend), random_x(backend, T=3, B=2).requires_grad_()
    masks = model.draw_masks(3, 2)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def run(x, *parameters):
        torch.manual_seed(1)  # nn.LSTM's dropout, between the layers
        weights = dict(zip(names, parameters, strict=True))
        options = {"masks": masks, "lengths": lengths}
        return tuple(flat(torch.func.functional_call(model, weights, (x,), options)))

    inputs = (x, *(p.detach().requires_grad_() for p in parameters))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    # Upstream gradients that are missing are test_op.py's: here they would be most of the time.
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True, check_undefined_grad=False)


@ANY_BACKEND
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_draws_the_same_masks_again(backend, use_reentrant):
    model, x = build(backend), random_x(backend)

    def recomputed(x):
        return checkpoint(lambda x: tuple(flat(model(x))), x, use_reentrant=use_reentrant, preserve_rng_state=True)

    # A reentrant checkpoint forbids autograd.grad, and does not see tensors in a nested tuple.
    def step(run):
        torch.manual_seed(1)
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        output = run(leaf)
        sum(value.sin().sum() for value in output).backward()
        return [*output, leaf.grad, *(p.grad for p in model.parameters())]

    assert all_equal(step(recomputed), step(lambda x: flat(model(x))))


@ANY_BACKEND
def test_functional_call_takes_other_weights(backend):
    model, other, x = build(backend).eval(), build(backend).eval(), random_x(backend)
    weights = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    output = torch.func.functional_call(model, weights, (x,))
    assert all_equal(flat(output), flat(other(x)))
    gradients = torch.autograd.grad(loss_of(output), list(weights.values()))
    assert all_equal(gradients, torch.autograd.grad(loss_of(other(x)), list(other.parameters())))
    assert not torch.equal(model(x)[0], output[0])


# ---------------------------------------------------------------- torch.func


def detached(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of_sample(model):
    """The loss of one sample x [T, I], as a function of the weights too."""

    def loss(weights, x, **options):
        return loss_of(torch.func.functional_call(model, weights, (x.unsqueeze(1),), options))

    return loss


@ANY_BACKEND
def test_per_sample_gradients_equal_a_loop(backend):
    model, x = build(backend).eval(), random_x(backend)
    weights, loss = detached(model), loss_of_sample(model)
    in_one_go = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 1))(weights, x)
    for b in range(B):
        leaves = [x[:, b].clone().requires_grad_(), *model.parameters()]
        expected = torch.autograd.grad(loss_of(model(leaves[0].unsqueeze(1))), leaves)
        of_weights, of_x = in_one_go
        assert_close([of_x[b], *(gradient[b] for gradient in of_weights.values())], expected)


@ANY_BACKEND
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_draws_masks_as_its_randomness_says(backend, randomness):
    model, x = build(backend), random_x(backend)[:, 0]
    copies = torch.stack([x, x, x])
    gradient = torch.func.grad(loss_of_sample(model))
    of_copies = torch.func.vmap(gradient, in_dims=(None, 0), randomness=randomness)(detached(model), copies)
    first, second, _ = of_copies["weight_hh_l0"]
    assert torch.equal(first, second) == (randomness == "same")
    assert first.any()


@ANY_BACKEND
def test_vmap_over_models_equals_a_loop(backend):
    models, x = [build(backend).eval() for _ in range(3)], random_x(backend)
    weights, _ = torch.func.stack_module_state(models)
    outputs = torch.func.vmap(lambda w: torch.func.functional_call(models[0], w, (x,)))(weights)
    for k, model in enumerate(models):
        assert_close([value[k] for value in flat(outputs)], flat(model(x)))


CONSTANTS = ("mask_x", "mask_h", "mask_g", "mask_c", "zone_c", "zone_h", "lengths")
LAYER_ARGUMENTS = ("x", "h_0", "c_0", "W_ih", "W_hh", "b_ih", *CONSTANTS)


@ANY_BACKEND
@pytest.mark.parametrize(
    "mapped",
    [
        ("x", 1), ("h_0", 0), ("c_0", 2), ("W_hh", 1), ("b_ih", 1), ("mask_x", 1), ("mask_h", 1), ("mask_g", 1),
        ("mask_c", 1), ("zone_c", 0), ("zone_h", 1), ("lengths", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mask_dims", ["shared", "sample", "untied", "untied sample"])
@pytest.mark.parametrize("B", [3, 1])
def test_vmap_over_each_argument_equals_a_loop(backend, mapped, mask_dims, B):
    """Outputs and gradients, with the mapped dimension anywhere."""
    name, dim = mapped
    batch = (B,) if mask_dims.endswith("sample") else ()
    gates = (4, *(batch or (1,))) if mask_dims.startswith("untied") else batch
    shapes = {
        "x": (T, B, I), "h_0": (B, H), "c_0": (B, H), "W_ih": (4 * H, I), "W_hh": (4 * H, H), "b_ih": (4 * H,),
        "mask_x": (*gates, I), "mask_h": (*gates, H), "mask_g": (T, B, H) if batch else (H,), "mask_c": (*batch, H),
        "zone_c": (T, B, H) if batch else (H,), "zone_h": (*batch, H), "lengths": (B,),
    }  # fmt: skip
    device, N = device_of(backend), 4

    def draw(argument, *extra):
        shape = (*extra, *shapes[argument])
        if argument == "lengths":
            return torch.randint(0, T + 1, shape, device=device)
        return torch.randn(shape, dtype=torch.float64, device=device)

    with_lengths = name in ("lengths", "c_0")
    given = {argument: draw(argument) for argument in LAYER_ARGUMENTS if argument != "lengths" or with_lengths}
    given[name] = draw(name, N).movedim(0, dim)
    in_dims = {argument: dim if argument == name else None for argument in given}
    upstream = draw("x").sum(-1, keepdim=True)

    def loss(differentiable, constant):
        y, h_n, c_n = functional.lstm_layer(**differentiable, **constant, backend=backend)
        return (y * upstream).sum() + (h_n.sin() * c_n).sum(), (y, h_n, c_n)

    def split(values):
        return (
            {argument: value for argument, value in values.items() if argument not in CONSTANTS},
            {argument: value for argument, value in values.items() if argument in CONSTANTS},
        )

    solve = torch.func.grad(loss, has_aux=True)
    gradients, outputs = torch.func.vmap(lambda values: solve(*split(values)), in_dims=(in_dims,))(given)
    for n in range(N):
        one = given | {name: given[name].select(dim, n)}
        differentiable, constant = split(one)
        leaves = {argument: value.clone().requires_grad_() for argument, value in differentiable.items()}
        value, expected = loss(leaves, constant)
        assert_close([output[n] for output in outputs], expected)
        wanted = torch.autograd.grad(value, list(leaves.values()))
        assert_close([gradients[argument][n] for argument in leaves], wanted)


@ANY_BACKEND
def test_derivatives_nest_in_torch_func(backend):
    """A Hessian by reverse mode twice, against plain torch."""
    model, x = build(backend).eval(), random_x(backend, T=2, B=1)
    plain = model.to_torch()

    def hessian(model):
        return torch.func.jacrev(torch.func.jacrev(lambda x: loss_of(model(x))))(x)

    assert_close([hessian(model)], [torch.autograd.functional.hessian(lambda x: loss_of(plain(x)), x)])


def function_of_input_and_weights(backend):
    """A layer with every mask given, as a function of tensors, and tensors to call it with."""
    model, x = build(backend, weight_dropout=0.5), random_x(backend)
    masks = model.draw_masks(T, B)
    names, parameters = zip(*detached(model).items(), strict=True)

    def run(x, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        return tuple(flat(torch.func.functional_call(model, weights, (x,), {"masks": masks})))

    return run, (x, *parameters)


def dual_outputs(run, inputs):
    with forward_ad.dual_level():
        outputs = run(*(forward_ad.make_dual(value, torch.ones_like(value)) for value in inputs))
        return [forward_ad.unpack_dual(output).tangent for output in outputs]


def forward_mode(run, inputs):
    tangents = tuple(map(torch.ones_like, inputs))
    return torch.func.jvp(run, inputs, tangents)[1]


FORWARD_MODE = {
    "jvp": forward_mode,
    "jacfwd": lambda run, inputs: torch.func.jacfwd(lambda x: run(x, *inputs[1:])[0].sum())(inputs[0]),
    "hessian": lambda run, inputs: torch.func.hessian(lambda x: run(x, *inputs[1:])[0].sum())(inputs[0]),
    "dual": dual_outputs,
    "dual, where autograd is off": torch.no_grad()(dual_outputs),
    "compiled": lambda run, inputs: torch.compile(forward_mode, backend="eager")(run, inputs),
}


@FUSED
@pytest.mark.parametrize("kind", FORWARD_MODE)
def test_forward_mode_is_refused_where_it_would_be_lost(backend, kind):
    torch._dynamo.reset()
    with pytest.raises(NotImplementedError, match="backend='python' only"):
        FORWARD_MODE[kind](*function_of_input_and_weights(backend))


@FUSED
def test_forward_mode_is_refused_in_backward(backend):
    """Forward over reverse by hand: the upstream gradient alone carries a tangent."""
    run, inputs = function_of_input_and_weights(backend)
    x = inputs[0].requires_grad_()
    y = run(*inputs)[0]
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="backend='python' only"):
        torch.autograd.grad(y, x, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


@FUSED
def test_forward_mode_elsewhere_does_not_matter(backend):
    run, inputs = function_of_input_and_weights(backend)

    def scaled(scale):
        return run(*inputs)[0] * scale

    scale = torch.ones((), dtype=torch.float64, device=inputs[0].device)
    assert_close([torch.func.jvp(scaled, (scale,), (scale,))[1]], [run(*inputs)[0]])


@pytest.mark.parametrize("kind", ["jvp", "dual", "dual, where autograd is off", "compiled"])
def test_forward_mode_on_the_python_backend(kind):
    """Against reverse mode applied twice."""
    torch._dynamo.reset()
    run, inputs = function_of_input_and_weights("python")
    _, expected = torch.autograd.functional.jvp(run, inputs, tuple(map(torch.ones_like, inputs)))
    assert all(tangent.any() for tangent in expected)
    assert_close(FORWARD_MODE[kind](run, inputs), expected)


# ---------------------------------------------------------------- the same numbers again


@ANY_BACKEND
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_repeats_bit_for_bit(backend, lengths):
    model, x = build(backend, dtype=torch.float32), random_x(backend, dtype=torch.float32)
    first = training_step(model, x, lengths=lengths)
    for _ in range(3):
        assert all_equal(training_step(model, x, lengths=lengths), first)


@pytest.mark.usefixtures("two_threads")
@ANY_BACKEND
def test_repeats_bit_for_bit_where_threads_share_the_work(backend):
    model = LSTM(64, 128, 2, bidirectional=True, **DROPOUT, backend=backend, device=device_of(backend))
    x = torch.randn(10, 65, 64, device=device_of(backend))
    first = training_step(model, x)
    for _ in range(3):
        assert all_equal(training_step(model, x), first)


@ANY_BACKEND
@pytest.mark.parametrize("mask_scope", ["batch", "sample"])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_deterministic_algorithms(backend, mask_scope, lengths, monkeypatch):
    """In this mode torch fills every empty tensor with NaN: what is read before it is written shows."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model, x = build(backend, mask_scope=mask_scope), random_x(backend)
    expected = training_step(model, x, lengths=lengths)
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        actual = training_step(model, x, lengths=lengths)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all_equal(actual, expected)


# ---------------------------------------------------------------- copies and files


@ANY_BACKEND
def test_copies_have_weights_and_settings_of_their_own(backend):
    """After a step of training: wrappers that drop weights leave non-leaf tensors behind, which cannot be copied."""
    model, x = build(backend), random_x(backend)
    loss_of(model(x)).backward()
    expected = training_step(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert all_equal(training_step(other, x), expected)
        with torch.no_grad():
            other.weight_hh_l0.zero_()
        assert all_equal(training_step(model, x), expected)


def through_torch(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def through_safetensors(state, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, path)
    return safetensors.load_file(path)


@ANY_BACKEND
@pytest.mark.parametrize("save_and_load", [through_torch, through_safetensors])
def test_weights_go_through_files(backend, save_and_load, tmp_path):
    model, other, x = build(backend), build(backend), random_x(backend)
    expected = training_step(model, x)
    assert not torch.equal(training_step(other, x)[0], expected[0])
    other.load_state_dict(save_and_load(model.state_dict(), tmp_path / "weights"))
    assert all_equal(training_step(other, x), expected)


# ---------------------------------------------------------------- threads and processes


@ANY_BACKEND
def test_threads_calling_at_once_get_the_serial_results(backend):
    model = LSTM(
        32, 48, 2, bidirectional=True, **DROPOUT | {"dropout": 0.0}, backend=backend, device=device_of(backend)
    )
    tasks = [(torch.randn(12, 33, 32, device=device_of(backend)), model.draw_masks(12, 33)) for _ in range(2)]

    def solve(x, masks):
        x = x.clone().requires_grad_()
        output = model(x, masks=masks)
        return [*flat(output), *torch.autograd.grad(loss_of(output), [x, *model.parameters()])]

    expected = [solve(*task) for task in tasks]
    start, results = threading.Barrier(2), [[], []]

    def repeat(k):
        start.wait()
        for _ in range(10):
            results[k].append(solve(*tasks[k]))

    threads = [threading.Thread(target=repeat, args=(k,), daemon=True) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a thread hung"
    for got, wanted in zip(results, expected, strict=True):
        assert len(got) == 10
        for result in got:
            assert_close(result, wanted, 1e-6)


def in_forked_child(function, seconds=30):
    """What the function returns in a child of this process, or the text of what it raises; fails where it hangs."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run():
        try:
            sender.send(function())
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    answered = receiver.poll(seconds)
    child.kill()
    child.join()
    assert answered, f"the forked child hung for {seconds} s"
    return receiver.recv()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu", "python"))
def test_forked_child_on_one_thread_gets_the_right_result(backend):
    """As a DataLoader's worker: it starts by asking for one thread."""
    model = LSTM(32, 128, 2, bidirectional=True, **DROPOUT, backend=backend)
    x = torch.randn(10, 64, 32)
    expected = training_step(model, x)

    def child():
        torch.set_num_threads(1)
        assert_close(training_step(model, x), expected, 1e-5)
        return "right"

    assert in_forked_child(child) == "right"


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu"))
def test_forked_child_on_several_threads_is_told_that_it_cannot(backend):
    """nn.LSTM hangs there: OpenMP's threads do not survive a fork."""
    model = LSTM(32, 128, 2, bidirectional=True, backend=backend)
    x = torch.randn(10, 64, 32)
    model(x)
    assert "set_num_threads(1)" in in_forked_child(lambda: model(x)[0].sum().item(), seconds=10)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu"))
def test_forked_child_draws_small_masks_only(backend):
    assert dropout_mask((500, 500), 0.5).any()
    assert "set_num_threads(1)" in in_forked_child(lambda: dropout_mask((500, 500), 0.5).shape, seconds=10)
    assert in_forked_child(lambda: bool(dropout_mask((500,), 0.5).any()), seconds=10) is True
