"""One shape of bench.sweep in one dtype: who is timed, the check that goes before, and the timing.

nn.LSTM, and our module on the same parameters without dropout, with Gal's and with Semeniuta's. Dropout only in
training: in eval ours is the same with and without.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench.correctness import masks_in, relative_error, tolerance
from bench.problems import NO_DROPOUT, Dropout, random_lengths
from bench.records import FORWARD_BACKWARD, INFERENCE, MODULE, NN_LSTM, Shape, SweepTiming, name_of
from bench.stopwatch import cpu_milliseconds, no_garbage_collection
from bench.verification import VerificationError
from rnndrop_cuda import LSTM, LayerMasks

GAL, SEMENIUTA = Dropout("Gal", p=0.5), Dropout("Semeniuta", p_g=0.3)
KINDS = {FORWARD_BACKWARD: (NO_DROPOUT, GAL, SEMENIUTA), INFERENCE: (NO_DROPOUT,)}
SHORTEST_MEASUREMENT_MS = 1.0
FEWEST_ROUNDS, MOST_ROUNDS = 5, 101
CHEAP_GFLOP, CHEAP_STEPS = 1.0, 256
"""Up to here the python backend, a loop over the steps of every layer, checks what has dropout in a second or so."""
PROFILED_CALLS = 5
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
"""Read by torch's profiler at its first use: below 6 it prints two lines for every profile."""
OPS = ("rnndrop::lstm_layer", "rnndrop::lstm_layer_backward")


class Contender(NamedTuple):
    name: str
    dropout: Dropout


class SweepCase:
    """Random input, states, weights and upstream gradients, and the modules that get them."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        T, B, I, H = shape.T, shape.B, shape.I, shape.H
        self.lstm = nn.LSTM(
            I, H, shape.layers, bool(shape.bias), bool(shape.batch_first), bidirectional=shape.directions == 2,
            proj_size=shape.P, dtype=dtype,
        )  # fmt: skip
        self.ours = {kind: self.module(kind) for kind in KINDS[FORWARD_BACKWARD]}
        self.x = self.random(*((B, T) if shape.batch_first else (T, B)), I).requires_grad_()
        runs = shape.layers * shape.directions
        self.hx = self.random(runs, B, shape.P or H), self.random(runs, B, H)
        self.lengths = random_lengths(T, B) if shape.lengths else None
        self.new_upstream()

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype)

    def module(self, kind: Dropout) -> LSTM:
        """Ours, on the very parameters of nn.LSTM."""
        ours = LSTM.from_torch(
            self.lstm, input_dropout=kind.p, hidden_dropout=kind.p, candidate_dropout=kind.p_g, backend="cpu"
        )
        for name, parameter in self.lstm.named_parameters():
            setattr(ours, name, parameter)
        return ours

    def new_upstream(self) -> None:
        """New gradients on y, h_n and c_n."""
        y = (*self.x.shape[:2], self.shape.directions * self.hx[0].shape[2])
        self.upstream = [self.random(*y), *(self.random(*state.shape) for state in self.hx)]

    def train(self, mode: bool) -> None:
        for module in (self.lstm, *self.ours.values()):
            module.train(mode)

    def contenders(self, phase: str) -> list[Contender]:
        return [Contender(NN_LSTM, NO_DROPOUT), *(Contender(MODULE, kind) for kind in KINDS[phase])]

    def forward(self, who: Contender) -> tuple[Tensor, Tensor, Tensor]:
        if who.name == NN_LSTM:
            return by_torch(self.lstm, self.x, self.hx, self.lengths)
        y, (h_n, c_n) = self.ours[who.dropout](self.x, self.hx, lengths=self.lengths)
        return y, h_n, c_n

    def call(self, who: Contender, phase: str) -> list[Tensor]:
        """What is timed: in training, the outputs and the gradients of x and of every parameter."""
        if phase == INFERENCE:
            with torch.no_grad():
                return list(self.forward(who))
        output = self.forward(who)
        return [*output, *torch.autograd.grad(output, [self.x, *self.lstm.parameters()], self.upstream)]


def by_torch(
    lstm: nn.LSTM, x: Tensor, hx: tuple[Tensor, Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if lengths is None:
        y, (h_n, c_n) = lstm(x, hx)
        return y, h_n, c_n
    packed = pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=False)
    y, (h_n, c_n) = lstm(packed, hx)
    return pad_packed_sequence(y, lstm.batch_first, total_length=x.shape[int(lstm.batch_first)])[0], h_n, c_n


# ---------------------------------------------------------------- the check


def verify(case: SweepCase, phase: str) -> bool:
    """Ours against nn.LSTM; in training, where it is cheap, each dropout against the python backend. Says if it was.

    nn.LSTM on a 16-bit layer's weights runs in float32 here: between two that round, neither is right.

    Raises:
        VerificationError: outputs or gradients differ by more than the dtype allows.
    """
    case.train(phase == FORWARD_BACKWARD)
    plain = Contender(MODULE, NO_DROPOUT)
    compare(case, plain, phase, case.call(plain, phase), expected(case, phase, case.lstm, {}))
    shape = case.shape
    cheap = shape.gflop(phase) <= CHEAP_GFLOP and shape.T * shape.layers * shape.directions <= CHEAP_STEPS
    if phase == INFERENCE or not cheap:
        return False
    for kind in (GAL, SEMENIUTA):
        masks = case.ours[kind].draw_masks(shape.T, shape.B)
        y, (h_n, c_n) = case.ours[kind](case.x, case.hx, lengths=case.lengths, masks=masks)
        gradients = torch.autograd.grad((y, h_n, c_n), [case.x, *case.lstm.parameters()], case.upstream)
        slow = copy.deepcopy(case.ours[kind])
        slow.backend = "python"
        wanted = expected(case, phase, slow, {"masks": [masks_in(torch.float32, of_layer) for of_layer in masks]})
        compare(case, Contender(MODULE, kind), phase, [y, h_n, c_n, *gradients], wanted)
    return True


def expected(case: SweepCase, phase: str, module: nn.LSTM | LSTM, options: dict[str, list[LayerMasks]]) -> list[Tensor]:
    """Outputs, and in training the gradients, of a copy of the module in float32."""
    module = copy.deepcopy(module).float()
    x, hx = case.x.detach().float().requires_grad_(), (case.hx[0].float(), case.hx[1].float())
    with torch.set_grad_enabled(phase == FORWARD_BACKWARD):
        if isinstance(module, nn.LSTM):
            output = by_torch(module, x, hx, case.lengths)
        else:
            y, states = module(x, hx, lengths=case.lengths, **options)
            output = y, *states
    if phase == INFERENCE:
        return list(output)
    upstream = [gradient.float() for gradient in case.upstream]
    return [*output, *torch.autograd.grad(output, [x, *module.parameters()], upstream)]


def compare(case: SweepCase, who: Contender, phase: str, results: list[Tensor], wanted: list[Tensor]) -> None:
    parameters = [name for name, _ in case.lstm.named_parameters()]
    names = ["y", "h_n", "c_n", *(f"the gradient of {name}" for name in ("x", *parameters))][: len(wanted)]
    allowed = tolerance(case.dtype, torch.device("cpu"))
    for name, result, right in zip(names, results, wanted, strict=True):
        if (error := relative_error(result, right.detach().double())) > allowed:
            raise VerificationError(
                f"{who.name}, dropout {who.dropout} ({case.shape}, {case.dtype}, {phase}) is wrong and was not timed: "
                f"{name} is off by {error:.2e} of its norm, {allowed:.0e} is allowed"
            )


# ---------------------------------------------------------------- the timing


def measure(case: SweepCase, phase: str, budget: float) -> list[SweepTiming]:
    """Times every contender in turn for some `budget` seconds, then profiles those of ours that were slower."""
    case.train(phase == FORWARD_BACKWARD)
    everyone = case.contenders(phase)
    calls: list[Callable[[], object]] = [lambda who=who: case.call(who, phase) for who in everyone]
    numbers, samples = in_turn(calls, budget, case.new_upstream)
    baseline = statistics.median(samples[0])
    return [
        summary(case, phase, who, number, sample, in_ops(call) if statistics.median(sample) > baseline else (0.0, 0.0))
        for who, call, number, sample in zip(everyone, calls, numbers, samples, strict=True)
    ]


def in_turn(
    calls: Sequence[Callable[[], object]], budget: float, before_a_round: Callable[[], None]
) -> tuple[list[int], list[list[float]]]:
    """How many calls of each were timed together, and the milliseconds a call in every round of all of them."""
    with no_garbage_collection():
        for call in calls:  # the first calls of a shape allocate, and choose kernels
            call()
        once = [cpu_milliseconds(call, 1) for call in calls]
        numbers = [math.ceil(SHORTEST_MEASUREMENT_MS / ms) for ms in once]
        round_ms = sum(number * ms for number, ms in zip(numbers, once, strict=True))
        rounds = min(max(FEWEST_ROUNDS, int(budget * 1e3 / round_ms)), MOST_ROUNDS)
        samples: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds):
            before_a_round()
            for call, number, sample in zip(calls, numbers, samples, strict=True):
                sample.append(cpu_milliseconds(call, number))
    return numbers, samples


def summary(
    case: SweepCase, phase: str, who: Contender, calls: int, sample: list[float], in_ops: tuple[float, float]
) -> SweepTiming:
    q1, median, q3 = statistics.quantiles(sample, n=4, method="inclusive")
    return SweepTiming(
        **vars(case.shape),
        dtype=name_of(case.dtype),
        threads=torch.get_num_threads(),
        phase=phase,
        contender=who.name,
        dropout=who.dropout.name,
        p=who.dropout.p,
        p_g=who.dropout.p_g,
        repeats=len(sample),
        calls=calls,
        median_ms=round(median, 5),
        q1_ms=round(q1, 5),
        q3_ms=round(q3, 5),
        min_ms=round(min(sample), 5),
        forward_op_ms=round(in_ops[0], 5),
        backward_op_ms=round(in_ops[1], 5),
    )


def in_ops(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that a call spends in the forward and in the backward ops of its layers, by torch's profiler.

    The ops only: what lies around them, Python, dispatch, autograd and masks, takes longer under the profiler.
    """
    samples: dict[str, list[float]] = {op: [] for op in OPS}
    for _ in range(PROFILED_CALLS):
        with torch.autograd.profiler.profile(use_kineto=False) as profiler:
            call()
        ms = {event.key: event.cpu_time_total / 1e3 for event in profiler.key_averages()}
        for op, sample in samples.items():
            sample.append(ms.get(op, 0.0))
    forward, backward = (statistics.median(sample) for sample in samples.values())
    return forward, backward
