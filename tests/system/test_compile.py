"""torch.compile, torch.export and CUDA graphs over the module."""

import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from rnndrop_cuda import LSTM
from tests.modules import (
    ANY_BACKEND,
    FUSED,
    NOT_USABLE,
    B,
    H,
    I,
    T,
    all_equal,
    assert_close,
    assert_same,
    build,
    flat,
    gradients,
    loss_of,
    random_x,
    training_step,
)
from tests.problems import relative_error


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


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_graph_break(training):
    ours = LSTM(I, H, 2, bidirectional=True, dtype=torch.float64).train(training)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    output = compiled(x)
    assert_same(output, ours(x))
    for a, e in zip(gradients(ours, output, [x]), gradients(ours, ours(x), [x]), strict=True):
        assert relative_error(a, e) < 1e-12
