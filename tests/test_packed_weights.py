"""``pack_weights``: the same results, for as long as the weights are what was packed."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations

from rnndrop_cuda import LSTM, GalLSTM, ops, pack_weights, unpack_weights
from tests.modules import another_parameter, assert_bit_for_bit, flat, halved, loaded, through_data, training_step
from tests.problems import relative_error

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")
T, B, I, H = 4, 3, 5, 9
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Units and inputs that fill no panel; one row and rows of several blocks; W_ih in a product of its own and not.
SIZES = [(1, 1, 1, 1), (1, 70, 33, 40), (5, 3, 7, 9), (3, 30, 130, 65), (60, 1, 70, 129), (40, 17, 20, 37)]


def layer_of(sizes=(T, B, I, H), **options):
    """A layer in eval, and an input and a state for it."""
    T, B, I, H = sizes
    layer = LSTM(I, H, **options).eval()
    dtype = options.get("dtype", torch.float32)
    hx = tuple(torch.randn(layer._runs, B, H, dtype=dtype) for _ in range(2))
    return layer, torch.randn(T, B, I, dtype=dtype), hx


@torch.no_grad()
def run(layer, *arguments):
    return layer(*arguments)


def changed_unseen(layer):
    """Changes the weights as nobody counts it, and the output of a layer where nothing is packed."""
    layer.weight_hh_l0.data[:1] += 1
    layer.weight_ih_l0.data[:1] += 1


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_results_differ_by_rounding_alone(threads, dtype, options):
    for sizes in SIZES:
        layer, x, hx = layer_of(sizes, dtype=dtype, **options)
        exact = run(copy.deepcopy(layer).double(), x.double(), tuple(state.double() for state in hx))
        before = run(layer, x, hx)
        pack_weights(layer)
        for packed, plain, wanted in zip(*map(flat, (run(layer, x, hx), before, exact)), strict=True):
            allowed = 2 * relative_error(plain, wanted) + 4 * torch.finfo(dtype).eps * (dtype.itemsize > 2)
            assert relative_error(packed, wanted) <= allowed, sizes
        assert_bit_for_bit(run(layer, x, hx), run(layer, x, hx))


def test_what_was_packed_is_what_runs():
    layer, x, hx = layer_of()
    pack_weights(layer)
    expected = run(layer, x, hx)
    changed_unseen(layer)
    assert_bit_for_bit(run(layer, x, hx), expected)
    unpack_weights(layer)
    assert not torch.equal(run(layer, x, hx)[0], expected[0])


def by_an_optimizer(layer):
    layer(torch.randn(T, B, I))[0].sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


def by_a_fused_optimizer(layer):
    """Which torch does not count."""
    layer(torch.randn(T, B, I))[0].sum().backward()
    torch.optim.AdamW(layer.parameters(), lr=1.0, fused=True).step()


@pytest.mark.parametrize(
    "change", [halved, by_an_optimizer, by_a_fused_optimizer, loaded, another_parameter, through_data]
)
def test_a_changed_weight_is_seen(change):
    layer, x, hx = layer_of()
    pack_weights(layer)
    before = run(layer, x, hx)
    change(layer)
    found = run(layer, x, hx)
    assert not torch.equal(found[0], before[0])
    assert_bit_for_bit(found, run(copy.deepcopy(layer), x, hx))
    pack_weights(layer)
    torch.testing.assert_close(run(layer, x, hx), found)


def test_memory_that_is_used_again_is_no_packed_weight():
    """The packed weight's own memory is kept, so that no other can come to lie there."""
    layer, x, hx = layer_of()
    pack_weights(layer)
    for _ in range(5):
        layer.weight_ih_l0.data = torch.randn(4 * H, I)
        assert_bit_for_bit(run(layer, x, hx), run(copy.deepcopy(layer), x, hx))


def test_other_weights_for_a_call_are_the_calls():
    layer, x, hx = layer_of()
    pack_weights(layer)
    expected = run(layer, x, hx)
    other = LSTM(I, H).eval()
    with torch.no_grad():
        found = torch.func.functional_call(layer, other.state_dict(), (x, hx))
    assert_bit_for_bit(found, run(other, x, hx))
    assert_bit_for_bit(run(layer, x, hx), expected)


def test_another_dtype_runs_unpacked():
    layer, x, hx = layer_of()
    pack_weights(layer)
    layer.double()
    x, hx = x.double(), tuple(state.double() for state in hx)
    assert_bit_for_bit(run(layer, x, hx), run(copy.deepcopy(layer), x, hx))


def test_other_calls_are_what_they_were():
    layer = GalLSTM(I, H, dropout=0.5)
    twin, x = copy.deepcopy(layer), torch.randn(T, B, I)
    pack_weights(layer)
    assert all(map(torch.equal, training_step(layer, x), training_step(twin, x)))
    layer.eval(), twin.eval()
    changed_unseen(layer), changed_unseen(twin)
    for options in ({"lengths": [4, 2, 3]}, {"return_states": True}):
        with torch.no_grad():
            assert_bit_for_bit(layer(x, **options), twin(x, **options))
    assert_bit_for_bit(layer(x), twin(x))  # which record a gradient


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_runs_on_its_own_weights(copied):
    layer, x, hx = layer_of()
    pack_weights(layer)
    expected = run(layer, x, hx)
    twin = copied(layer)
    halved(twin)
    assert not torch.equal(run(twin, x, hx)[0], expected[0])
    unpack_weights(layer)
    assert "_packed" not in layer.state_dict()


def test_every_layer_of_a_model_is_packed_and_unpacked():
    model = nn.ModuleDict({"a": LSTM(I, H), "b": nn.Sequential(LSTM(H, H))}).eval()
    pack_weights(model)
    assert model["a"]._packed and model["b"][0]._packed
    unpack_weights(model)
    assert model["a"]._packed is model["b"][0]._packed is None


def test_many_threads_while_it_is_packed_anew():
    layer, x, hx = layer_of((3, 20, 40, 64))
    pack_weights(layer)
    expected = run(layer, x, hx)
    wrong = []

    def calls():
        for _ in range(50):
            found = run(layer, x, hx)
            wrong.append(not all(map(torch.equal, flat(found), flat(expected))))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        pack_weights(layer)
    for thread in threads:
        thread.join()
    assert len(wrong) == 200 and not any(wrong)


def test_what_cannot_be_packed_is_named():
    with torch.inference_mode():
        inference = LSTM(I, H)
    wrong = {
        r"encoder has a projection": LSTM(I, H, proj_size=2),
        r"encoder has zoneout, which acts in eval, too": LSTM(I, H, cell_zoneout=0.1),
        r"encoder learns its initial state": LSTM(I, H, learn_initial_state=True),
        r"encoder has backend='python'": LSTM(I, H, backend="python"),
        r"encoder has parametrized weights": parametrizations.weight_norm(LSTM(I, H), "weight_hh_l0"),
        r"encoder has parameters on meta": LSTM(I, H, device="meta"),
        r"encoder has parameters made under inference_mode": inference,
    }
    for message, layer in wrong.items():
        model = nn.ModuleDict({"fine": LSTM(I, H), "encoder": layer})
        with pytest.raises(ValueError, match=rf"pack_weights: {message}"):
            pack_weights(model)
        assert model["fine"]._packed is None
    with pytest.raises(ValueError, match=r"pack_weights: the model itself has a projection"):
        pack_weights(LSTM(I, H, proj_size=2))
    with pytest.raises(ValueError, match=r"model: expected an rnndrop_cuda.LSTM or a module that has one, got Linear"):
        pack_weights(nn.Linear(2, 3))
    for function in (pack_weights, unpack_weights):
        with pytest.raises(TypeError, match=r"model: expected an nn.Module, got Tensor"):
            function(torch.zeros(1))


def test_parameters_may_be_swapped(monkeypatch):
    """torch swaps no tensor that somebody else holds."""
    layer, x, hx = layer_of()
    pack_weights(layer)
    monkeypatch.setattr(torch.__future__, "get_swap_module_params_on_conversion", lambda: True)
    layer.double()
    assert run(layer, x.double(), tuple(state.double() for state in hx))[0].dtype == torch.float64


def test_a_profiler_sees_the_layer():
    layer, x, hx = layer_of()
    pack_weights(layer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(layer, x, hx)
    assert "rnndrop::lstm_layer" in {event.key for event in profile.key_averages()}


def test_a_compiled_model_runs_on_the_weights():
    torch._dynamo.reset()
    layer, x, hx = layer_of()
    pack_weights(layer)
    changed_unseen(layer)
    found = run(torch.compile(layer, backend="eager"), x, hx)
    assert_bit_for_bit(found, run(copy.deepcopy(layer), x, hx))


def test_a_packed_layer_is_read_back_as_any_other(tmp_path):
    layer = LSTM(4, 5).eval()
    pack_weights(layer)
    torch.save(layer, tmp_path / "layer.pt")
    with torch.serialization.safe_globals([LSTM]):
        read = torch.load(tmp_path / "layer.pt", weights_only=True)
    x = torch.randn(3, 2, 4)
    unpack_weights(layer)
    assert torch.equal(read(x)[0], layer(x)[0])


def test_parameters_without_memory_of_their_own_are_not_packed():
    """DTensors are the same; kernels would read from null."""
    with FakeTensorMode():
        layer = LSTM(4, 5).eval()
    with pytest.raises(ValueError, match="the model itself has parameters of type FakeTensor; expected dense tensors"):
        pack_weights(layer)
