"""The module's call that is all C++ (csrc/plain_call.h): which calls it takes, and that they give what the others give.

test_plain_training.py has the calls that draw masks and are differentiated.
"""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rnndrop_cuda import LSTM, GalLSTM, ops, pack_weights
from tests.modules import another_parameter, assert_bit_for_bit, flat, halved, loaded, long_way, through_data

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")
T, B, I, H = 4, 3, 5, 6


def eval_layer(**options):
    return LSTM(I, H, **options).eval()


def state(layer, dtype=torch.float32):
    runs = layer.num_layers * (2 if layer.bidirectional else 1)
    return torch.randn(runs, B, H, dtype=dtype), torch.randn(runs, B, H, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_hx", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"batch_first": True}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}]
)
def test_gives_the_bits_of_the_long_way(taken, dtype, with_hx, options):
    layer = eval_layer(dtype=dtype, **options)
    hx = state(layer, dtype) if with_hx else None
    for x in (torch.randn(B, T, I, dtype=dtype).transpose(0, 1), torch.randn(1, B, I, dtype=dtype)):
        x = x.transpose(0, 1) if layer.batch_first else x
        with torch.no_grad():
            expected, found = long_way(layer, x, hx), layer(x, hx)
        assert_bit_for_bit(found, expected)
        for a, e in zip(flat(found), flat(expected), strict=True):
            assert a.shape == e.shape
            assert not a.requires_grad
            assert a.stride() == e.stride()
        assert not any(state._is_view() for state in found[1])
    assert taken == [True] * 2


def test_a_state_is_carried_from_step_to_step(taken):
    layer, x = eval_layer(num_layers=2), torch.randn(T, B, I)
    with torch.inference_mode():
        hx, outputs = None, []
        for x_t in x.split(1):
            y, hx = layer(x_t, hx)
            outputs.append(y)
        y, (h_n, c_n) = long_way(layer, x)[:2]
        assert hx[0].is_inference()
    assert taken == [True] * T
    torch.testing.assert_close([torch.cat(outputs), *hx], [y, h_n, c_n])


def threads_of_the_layer(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.thread for event in profile.events() if event.key == "rnndrop::lstm_layer"}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("B", [1, 5, 40])
def test_two_directions_run_on_a_thread_each(taken, dtype, packs, B):
    layer = LSTM(33, 70, 2, bidirectional=True, dtype=dtype).eval()
    if packs:
        pack_weights(layer)
    x = torch.randn(20, B, 33, dtype=dtype)
    with torch.inference_mode():
        expected, found = long_way(layer, x), layer(x)
        for ours, wanted in zip(flat(found), flat(expected), strict=True):
            assert ours.is_inference()
            torch.testing.assert_close(ours, wanted)
        for _ in range(5):
            assert_bit_for_bit(layer(x), found)
        assert len(threads_of_the_layer(lambda: layer(x))) == 2
        assert len(threads_of_the_layer(lambda: layer(x[:1, :1]))) == 1  # too little for two
    assert taken == [True] * 8


def test_results_are_memory_of_their_own(taken):
    layer, x = eval_layer(), torch.randn(1, B, I)
    hx = state(layer)
    with torch.no_grad():
        y, (h_n, c_n) = layer(x, hx)
        kept = [t.clone() for t in (*hx, x, layer.weight_hh_l0)]
        for result in (y, h_n, c_n):
            result.fill_(3)
        assert taken == [True]
        assert all(map(torch.equal, kept, (*hx, x, layer.weight_hh_l0)))
        assert len({t.untyped_storage().data_ptr() for t in (y, h_n, c_n)}) == 3


class Steps(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **kwargs or {})


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **kwargs or {})


class Tagged(torch.Tensor):
    pass


def test_who_listens_sees_the_long_way(taken):
    layer, x = eval_layer(), torch.randn(T, B, I)
    hx = state(layer)
    with torch.no_grad():
        for listener in (Steps(), Functions(), torch.device("cpu")):
            with listener:
                layer(x, hx)
        torch.func.vmap(layer, in_dims=1, out_dims=0)(torch.randn(T, 2, B, I))
        assert type(layer(x.as_subclass(Tagged), hx)[0]) is Tagged
        assert type(layer(x, (hx[0].as_subclass(Tagged), hx[1]))[0]) is Tagged
        torch.jit.trace(layer, (x, hx), check_trace=False)
        with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
            layer(torch.autograd.forward_ad.make_dual(x, x), hx)
    assert taken == [False] * len(taken)
    assert len(taken) >= 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}, {"weight_dropout": 0.5, "candidate_dropout": 0.5},
     {"input_dropout": 0.5, "hidden_dropout": 0.5, "mask_scope": "sample"}],
    ids=str,
)  # fmt: skip
def test_autocast_gives_what_the_long_way_gives(taken, options, of_input, dtype):
    """With and without a state, packed too; gradients arrive in the types of the parameters."""
    layer, x = LSTM(I, H, **options), torch.randn(T, B, I).to(of_input)
    packed = pack_padded_sequence(x, torch.full((B,), T))
    hx = state(layer)
    for given in ((x,), (x, hx), (packed,)):
        results = []
        for call in (layer, lambda *given: layer(*given, return_masks=True)[:2]):
            torch.manual_seed(3)
            layer.zero_grad()
            with torch.autocast("cpu", dtype):
                y, (h_n, c_n) = call(*given)
                y = y.data if isinstance(y, PackedSequence) else y
                (y.sum() + h_n.sum() + c_n.sum()).backward()
            results.append([y, h_n, c_n, *(parameter.grad for parameter in layer.parameters())])
        assert taken == [True]
        taken.clear()
        for plain, long in zip(*results, strict=True):
            assert plain.dtype == long.dtype and torch.equal(plain, long)


@pytest.mark.parametrize(("options", "of_input"), [({"proj_size": 2}, torch.float32), ({}, torch.float64)])
def test_what_autocast_leaves_to_the_long_way(taken, options, of_input):
    layer = LSTM(I, H, **options).to(of_input)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y, (_, c_n) = layer(torch.randn(T, B, I, dtype=of_input))
    assert taken == [False]
    assert y.dtype == (torch.bfloat16 if options else torch.float64)
    assert c_n.dtype == of_input


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [({"cell_zoneout": 0.5}, False), ({"hidden_zoneout": 0.5}, False), ({"learn_initial_state": True}, False),
     ({"mc_dropout": True, "input_dropout": 0.5}, True), ({"proj_size": 2}, True), ({"backend": "python"}, False)],
)  # fmt: skip
def test_what_acts_in_eval_too_is_not_lost(taken, options, is_plain):
    layer, x = eval_layer(**options), torch.randn(T, B, I)
    plain = LSTM(I, H, proj_size=options.get("proj_size", 0)).eval()
    plain.load_state_dict(layer.state_dict(), strict=False)
    if layer.learn_initial_state:
        nn.init.ones_(layer.c_0)
    with torch.no_grad():
        found, without = layer(x), long_way(plain, x)
    assert taken == [True] * is_plain
    assert torch.allclose(found[0], without[0], atol=1e-6) == ("backend" in options or "proj_size" in options)


def test_an_option_that_is_set_later_counts(taken):
    layer, x = eval_layer(), torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
        layer.cell_zoneout = 0.5
        assert not torch.equal(layer(x)[0], LSTM.from_torch(layer_without_noise(layer))(x)[0])
        layer.cell_zoneout = 0.0
        layer(x)
        layer.train()
        layer.input_dropout = 1.0
        assert_bit_for_bit(layer(x), long_way(layer, x))
    assert taken == [True] * 4  # and the copy's


def layer_without_noise(layer):
    lstm = nn.LSTM(I, H).eval()
    lstm.load_state_dict(layer.state_dict())
    return lstm


def registered(layer):
    layer.register_parameter("weight_hh_l0", nn.Parameter(torch.randn(4 * H, H)))


def loaded_by_assignment(layer):
    layer.load_state_dict(LSTM(I, H).state_dict(), assign=True)


def a_buffer(layer):
    del layer.weight_hh_l0
    layer.register_buffer("weight_hh_l0", torch.randn(4 * H, H))


def a_plain_tensor(layer):
    del layer.weight_hh_l0
    layer.weight_hh_l0 = torch.randn(4 * H, H)


def normalised(layer):
    """Gives the weight that was there."""
    parametrizations.weight_norm(layer, "weight_hh_l0")


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(
    ("change", "is_plain"),
    [
        (halved, True),
        (another_parameter, True),
        (registered, True),
        (loaded, True),
        (loaded_by_assignment, True),
        (through_data, True),
        (a_buffer, False),
        (a_plain_tensor, False),
        (lambda layer: parametrize.register_parametrization(layer, "weight_hh_l0", Doubled()), False),
        (normalised, False),
        (lambda layer: parametrizations.spectral_norm(layer, "weight_hh_l0"), False),
        (lambda layer: prune.random_unstructured(layer, "weight_hh_l0", 0.5), False),
    ],
)
def test_weights_are_read_anew_in_every_call(taken, change, is_plain):
    layer, x = eval_layer(), torch.randn(T, B, I)
    with torch.no_grad():
        before = layer(x)
        change(layer)
        layer.eval()
        after, expected = layer(x), long_way(layer, x)
    assert taken == [True, is_plain]
    assert_bit_for_bit(after, expected)
    assert torch.allclose(before[0], after[0]) == (change is normalised)


def test_weights_given_for_one_call(taken):
    layer, x = eval_layer(), torch.randn(T, B, I)
    given = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    with torch.no_grad():
        found = torch.func.functional_call(layer, given, (x,))
        other = LSTM(I, H).eval()
        other.load_state_dict(given)
        assert_bit_for_bit(found, long_way(other, x))
    assert taken == [True]


def test_dtype_that_changes(taken):
    layer, x = eval_layer(), torch.randn(T, B, I)
    with torch.no_grad():
        layer(x)
        assert layer.double()(x.double())[0].dtype is torch.float64
        assert layer.to(torch.bfloat16)(x.bfloat16())[0].dtype is torch.bfloat16
        with pytest.raises(ValueError, match="does not match weight dtype"):
            layer(x)
    assert taken == [True] * 3 + [False]


WRONG = {
    "features": (torch.randn(T, B, I + 1), None),
    "dimensions": (torch.randn(T, B, I, 1), None),
    "no steps": (torch.randn(0, B, I), None),
    "one dimension": (torch.randn(I), None),
    "hx of a batch for none": (torch.randn(T, I), (torch.randn(1, 1, H), torch.randn(1, 1, H))),
    "hx of none for a batch": (torch.randn(T, B, I), (torch.randn(1, H), torch.randn(1, H))),
    "dtype": (torch.randn(T, B, I, dtype=torch.float64), None),
    "integers": (torch.ones(T, B, I, dtype=torch.int64), None),
    "device": (torch.randn(T, B, I, device="meta"), None),
    "no tensor": (None, None),
    "hx of another batch": (torch.randn(T, B, I), (torch.randn(1, B + 1, H), torch.randn(1, B + 1, H))),
    "hx of two layers": (torch.randn(T, B, I), (torch.randn(2, B, H), torch.randn(2, B, H))),
    "hx of another dtype": (torch.randn(T, B, I), (torch.randn(1, B, H).double(), torch.randn(1, B, H).double())),
    "h alone": (torch.randn(T, B, I), torch.randn(1, B, H)),
    "hx on another device": (torch.randn(T, B, I), (torch.randn(1, B, H, device="meta"), torch.randn(1, B, H))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_in_the_same_words(taken, wrong):
    layer, given = eval_layer(), WRONG[wrong]
    with torch.no_grad(), pytest.raises(Exception) as expected:  # noqa: PT011  the other call says which
        long_way(layer, *given)
    with torch.no_grad(), pytest.raises(type(expected.value)) as found:
        layer(*given)
    assert str(found.value) == str(expected.value)
    assert taken == [False]


def test_empty_batch_and_a_list_for_hx(taken):
    layer = eval_layer()
    with torch.no_grad():
        y, (h_n, c_n) = layer(torch.randn(T, 0, I))
        assert (y.shape, h_n.shape, c_n.shape) == ((T, 0, H), (1, 0, H), (1, 0, H))
        x, hx = torch.randn(T, B, I), state(layer)
        assert_bit_for_bit(layer(x, list(hx)), layer(x, hx))
    assert taken == [True, False, True]


@pytest.mark.parametrize("options", [{"bidirectional": 1}, {"bidirectional": 1, "num_layers": 2}])
def test_a_second_direction_that_is_asked_for_by_a_number(taken, options):
    """nn.RNNBase does not check its type, and where I = H a second direction has the shapes of a second layer."""
    layer = LSTM(H, H, **options).eval()
    x = torch.randn(T, B, H)
    with torch.no_grad():
        assert_bit_for_bit(layer(x), long_way(layer, x))
    assert taken == [True]


def test_hooks_copies_and_presets(taken):
    layer, x, seen = GalLSTM(I, H, dropout=0.5).eval(), torch.randn(T, B, I), []
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    layer.register_forward_hook(lambda module, args, output: seen.append("after"))
    with torch.no_grad():
        expected = layer(x)
        assert seen == ["before", "after"]
        assert_bit_for_bit(copy.deepcopy(layer)(x), expected)
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
        assert_bit_for_bit(pickle.loads(pickle.dumps(layer))(x), expected)
    assert taken == [True] * 3


def test_on_many_threads_while_a_weight_is_replaced(taken):
    """The weights that a call began with are held until it ends."""
    layer, x = LSTM(64, 64).eval(), torch.randn(2, 4, 64)
    weights = [nn.Parameter(layer.weight_hh_l0.detach().clone()) for _ in range(2)]
    expected = long_way(layer, x)[0].detach()
    wrong = []

    def call():
        with torch.no_grad():
            wrong.extend(not torch.equal(layer(x)[0], expected) for _ in range(100))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for k in range(200):
        layer.weight_hh_l0 = weights[k % 2]
        weights[k % 2] = nn.Parameter(weights[k % 2].detach().clone())
    for thread in threads:
        thread.join()
    assert len(wrong) == 400
    assert not any(wrong)
    assert taken == [True] * 400
