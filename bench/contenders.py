"""What the benchmark times, all on one `Problem`: the same x, states, weights and upstream gradients for each.

nn.LSTM, a Python loop over nn.LSTMCell, rnndrop_cuda's functional layer and its module, and the floor: the GEMMs of a
dense LSTM alone. A layer that has dropout draws its masks on every call, as training does, so drawing is in its time.
On CUDA also each engine of ours by its name, and the rivals of bench/rivals.py that can run.

Where the sequences have lengths of their own, all start from the padded batch and end with one: packing and unpacking
are in the time of the layers that need it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnndrop_cuda
from bench.correctness import in_float64, relative_error, tolerance
from bench.records import (
    CELL_LOOP,
    FORWARD,
    FORWARD_BACKWARD,
    FULL,
    GEMMS,
    INFERENCE,
    LENGTHS,
    MASKS,
    MODULE,
    NN_LSTM,
    OP,
    PACKED,
    PADDED,
    STACK,
)
from rnndrop_cuda import LSTM, LayerMasks, dropout_mask, engines, functional

Output = tuple[Tensor, Tensor, Tensor]
Masks = LayerMasks | list[LayerMasks]
"""Of a layer, or of each layer and direction of a stack."""
Layer = Callable[["Problem", Masks], Output]
NO_MASKS = LayerMasks()
ENGINES = engines.ENGINES[1:]  # all that have a name of their own


class Size(NamedTuple):
    """Steps, batch, input features, hidden features."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())


@dataclass(frozen=True)
class Dropout:
    """A kind of dropout: p on x and h (Gal & Ghahramani), p_g on the candidate (Semeniuta et al.)."""

    name: str
    p: float = 0.0
    p_g: float = 0.0
    per_sample: bool = False
    per_step: bool = True
    """Of the mask on the candidate: fresh at every step and sample, or one for the whole batch and sequence."""

    def __str__(self) -> str:
        rates = [f"{name}={rate:g}" for name, rate in (("p", self.p), ("p_g", self.p_g)) if rate]
        return " ".join([self.name, *rates])

    def draw(self, size: Size, dtype: torch.dtype, device: torch.device) -> LayerMasks:
        """Fresh masks. NO_MASKS itself without dropout."""
        if not self.p and not self.p_g:
            return NO_MASKS
        T, B, I, H = size
        rows = (B,) if self.per_sample else ()

        def mask(p: float, *shape: int) -> Tensor | None:
            return dropout_mask(shape, p, dtype=dtype, device=device) if p else None

        return LayerMasks(
            mask(self.p, *rows, I), mask(self.p, *rows, H), mask(self.p_g, *((T, B) if self.per_step else ()), H)
        )


NO_DROPOUT = Dropout("none")
MAIN_KINDS = ("none", "Gal batch", "Semeniuta step", "Semeniuta sequence")
CUDA_KINDS = ("none", "Gal batch", "Semeniuta step", "both")


def dropouts(ps: Iterable[float], ps_g: Iterable[float]) -> list[Dropout]:
    """No dropout, and each kind at each of its probabilities."""
    ps, ps_g = list(ps), list(ps_g)
    return [
        NO_DROPOUT,
        *(Dropout("Gal batch", p) for p in ps),
        *(Dropout("Gal sample", p, per_sample=True) for p in ps),
        *(Dropout("Semeniuta step", p_g=p_g) for p_g in ps_g),
        *(Dropout("Semeniuta sequence", p_g=p_g, per_step=False) for p_g in ps_g),
        *(Dropout("both", p, p_g) for p, p_g in product(ps, ps_g)),
    ]


def random_lengths(T: int, B: int) -> Tensor:
    """From 1 to T, both included, with a mean of (T + 1) / 2: for every length l there is one of T + 1 - l."""
    lengths = torch.randint(1, T + 1, (B,))
    lengths[0] = T
    half = B // 2
    lengths[half : 2 * half] = T + 1 - lengths[:half]
    return lengths


class Problem:
    """One size in one dtype on one device: random input, states and weights, and fresh upstream gradients on demand.

    With `ragged` the sequences have random lengths; without, `lengths` says that each has T steps. With `stack` there
    are two layers in both directions, whose states lie one upon the other.
    """

    def __init__(
        self, size: Size, dtype: torch.dtype, device: torch.device, *, ragged: bool = False, stack: bool = False
    ) -> None:
        self.size, self.dtype, self.device, self.ragged, self.stack = size, dtype, device, ragged, stack
        self.left_out: list[str] = []
        """Who is not timed, and why: a line each."""
        T, B, I, H = size
        # The weights live in an nn.LSTM: on CUDA only there are they laid out as cuDNN wants them.
        self.lstm = nn.LSTM(I, H, 1 + stack, bidirectional=stack, dtype=dtype, device=device)
        self.modules = nn.ModuleList([self.lstm])
        self.x = self.random(T, B, I).requires_grad_()
        self.state = (4, B, H) if stack else (B, H)
        self.h_0, self.c_0 = self.random(*self.state), self.random(*self.state)
        self.hx = self.h_0.view(-1, B, H), self.c_0.view(-1, B, H)
        self.lengths_on_cpu = random_lengths(T, B) if ragged else torch.full((B,), T)
        self.lengths = self.lengths_on_cpu.to(device)
        self.new_upstream()

    def module(self, backend: str, dropout: Dropout) -> LSTM:
        """Ours, with the weights of `lstm`: the same parameters, not copies."""
        module = LSTM.from_torch(
            self.lstm, backend=backend, input_dropout=dropout.p, hidden_dropout=dropout.p,
            candidate_dropout=dropout.p_g, mask_scope="sample" if dropout.per_sample else "batch",
            candidate_mask="step" if dropout.per_step else "sequence",
        )  # fmt: skip
        for name, parameter in self.lstm.named_parameters():
            setattr(module, name, parameter)
        self.modules.append(module)
        return module

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype, device=self.device)

    def new_upstream(self) -> None:
        """New gradients on y, h_n and c_n."""
        T, B, _, H = self.size
        self.upstream = (self.random(T, B, H * (1 + self.stack)), self.random(*self.state), self.random(*self.state))

    @property
    def leaves(self) -> dict[str, Tensor]:
        """What gradients are asked for."""
        return {"x": self.x, **dict(self.lstm.named_parameters())}

    def gradients(self, output: Output) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, list(self.leaves.values()), self.upstream)

    def draw(self, dropout: Dropout) -> Masks:
        """Fresh masks for what stands here, a layer or a stack."""
        if self.stack and dropout != NO_DROPOUT:
            return self.module("python", dropout).draw_masks(self.size.T, self.size.B)
        return dropout.draw(self.size, self.dtype, self.device)

    def expected(self, masks: Masks, lengths: Tensor | None) -> list[Tensor]:
        """Outputs and gradients by the reference in float64."""
        if not self.stack:
            assert isinstance(masks, LayerMasks)
            inputs = [self.x, self.h_0, self.c_0, *self.lstm.parameters()]
            return in_float64(inputs, self.upstream, {**by_name(masks), "lengths": lengths})
        module = LSTM.from_torch(self.lstm, backend="python").double()
        x, hx = self.x.detach().double().requires_grad_(), tuple(state.double() for state in self.hx)
        in_double = None if masks is NO_MASKS else [in_float64_masks(of_layer) for of_layer in masks]
        y, (h_n, c_n) = module(x, hx, masks=in_double)
        upstream = [gradient.double() for gradient in self.upstream]
        gradients = torch.autograd.grad((y, h_n, c_n), [x, *module.parameters()], upstream)
        return [result.detach() for result in (y, h_n, c_n, *gradients)]


def in_float64_masks(masks: LayerMasks) -> LayerMasks:
    return LayerMasks(*(None if mask is None else mask.double() for mask in masks))


class Contender(Protocol):
    """Something to be timed; `calls` are what is timed, by phase, in `running()`. The others are a timing's columns."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def dropout(self) -> Dropout: ...
    @property
    def sequences(self) -> str: ...
    @property
    def calls(self) -> dict[str, Callable[[], object]]: ...
    def running(self) -> contextlib.AbstractContextManager[object]: ...


@dataclass(frozen=True)
class LayerContender:
    name: str
    backend: str
    dropout: Dropout
    layer: Layer
    problem: Problem
    sequences: str = FULL
    engine: str = ""
    """The CUDA engine that it is to run on, where that is not left to the op."""

    def running(self) -> contextlib.AbstractContextManager[object]:
        return rnndrop_cuda.cuda_engine(self.engine) if self.engine else contextlib.nullcontext()

    def __str__(self) -> str:
        name = self.name if self.sequences == FULL else f"{self.name} {self.sequences}"
        return ", ".join(part for part in (name, self.backend, f"dropout {self.dropout}") if part)

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        calls = {FORWARD: self.forward, FORWARD_BACKWARD: lambda: self.gradients(self.forward())}
        return calls if self.dropout != NO_DROPOUT else {INFERENCE: self.inference, **calls}

    @property
    def knows_lengths(self) -> bool:
        return self.problem.ragged and self.sequences != PADDED

    def forward(self) -> Output:
        problem = self.problem
        return self.layer(problem, self.dropout.draw(problem.size, problem.dtype, problem.device))

    def gradients(self, output: Output) -> tuple[Tensor, ...]:
        return self.problem.gradients(output)

    def gradients_to_check(self, output: Output) -> tuple[Tensor, ...]:
        """Laid out as the problem's leaves are."""
        return self.gradients(output)

    def inference(self) -> Output:
        """The modules are put into eval by whoever times or checks it: that is no part of a call."""
        with torch.no_grad():
            return self.forward()


@dataclass(frozen=True, kw_only=True)
class ModuleContender(LayerContender):
    """Our module as its user calls it: it draws its own masks."""

    module: LSTM

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        calls = super().calls
        return calls if self.dropout == NO_DROPOUT else {MASKS: self.draw, **calls}

    def draw(self) -> list[LayerMasks]:
        return self.module.draw_masks(self.problem.size.T, self.problem.size.B)

    def forward(self) -> Output:
        return self.layer(self.problem, NO_MASKS)


def layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """nn.LSTM and the LSTMCell loop, then each backend of ours with each kind of dropout, then our module.

    The python backend is timed with the first kind and the last only: its time is that of its step loop, and a run
    is to end in minutes.
    """
    cell_loop = lstm_cell_loop(problem)
    contenders = [
        LayerContender(NN_LSTM, "", NO_DROPOUT, nn_lstm, problem),
        *(
            LayerContender(CELL_LOOP, "", kind, cell_loop, problem)
            for kind in kinds
            if kind.name in ("none", "Gal batch")
        ),
    ]
    for backend in backends:
        timed = [kinds[0], kinds[-1]] if backend == "python" else kinds
        contenders += [LayerContender(OP, backend, kind, rnndrop(backend), problem) for kind in timed]
    return contenders + ours(problem, backends, kinds, [FULL])


def main_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """What is compared over many sizes: nn.LSTM, the LSTMCell loop, our module with each of the papers' dropouts."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, nn_lstm, problem),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, lstm_cell_loop(problem), problem),
        *ours(problem, backends, kinds, [FULL]),
    ]


def ragged_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """nn.LSTM on a PackedSequence and on the padded batch; our module on both, and on the padded batch with lengths."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, as_module(problem.lstm, PACKED), problem, PACKED),
        LayerContender(NN_LSTM, "", NO_DROPOUT, nn_lstm, problem, PADDED),
        *ours(problem, backends, [NO_DROPOUT], [PACKED, LENGTHS, PADDED]),
        *ours(problem, backends, [kind for kind in kinds if kind != NO_DROPOUT], [LENGTHS]),
    ]


def stack_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """Two layers in both directions: nn.LSTM, the loop, and our module."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, as_module(problem.lstm, FULL), problem, STACK),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, lstm_cell_loop(problem), problem, STACK),
        *ours(problem, backends, kinds, [STACK]),
    ]


def cuda_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """What there is to compare with on CUDA, our op on each engine that runs this size, and our module."""
    from bench import rivals  # here: it imports this module

    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, nn_lstm, problem),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, lstm_cell_loop(problem), problem),
        *rivals.running(problem),
        *by_engine(problem, [kinds[0], kinds[-1]]),
        *ours(problem, backends, kinds, [FULL]),
    ]


def cuda_ragged_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """Beside those with lengths the loop, which knows none."""
    loop = LayerContender(CELL_LOOP, "", NO_DROPOUT, lstm_cell_loop(problem), problem, PADDED)
    return [*ragged_layers(problem, backends, kinds), loop]


def by_engine(problem: Problem, kinds: list[Dropout]) -> list[LayerContender]:
    """Our op on each engine by its name. One that would leave both forward and backward to stepwise is left out."""
    contenders = []
    for engine in ENGINES:
        with rnndrop_cuda.cuda_engine(engine):
            explained = rnndrop_cuda.explain_engine(*problem.size, dtype=problem.dtype)
        if f"{engine}:" in explained:
            contenders += [
                LayerContender(OP, f"cuda {engine}", kind, rnndrop("cuda"), problem, engine=engine) for kind in kinds
            ]
        else:
            problem.left_out.append(f"engine {engine}: {' | '.join(explained.splitlines())}")
    return contenders


def ours(problem: Problem, backends: Iterable[str], kinds: list[Dropout], forms: Iterable[str]) -> list[LayerContender]:
    """Our module with the papers' kinds of dropout, on the backends of kernels; on python where no other is named."""
    backends = list(backends)
    contenders: list[LayerContender] = []
    names = CUDA_KINDS if problem.device.type == "cuda" else MAIN_KINDS
    for backend in [name for name in backends if name != "python"] or backends:
        for kind, form in product([kind for kind in kinds if kind.name in names], forms):
            module = problem.module(backend, kind)
            contenders.append(
                ModuleContender(MODULE, backend, kind, as_module(module, form), problem, form, module=module)
            )
    return contenders


def as_module(module: nn.LSTM | LSTM, form: str) -> Layer:
    """A module as its users call it, with the lengths as `form` says."""

    def layer(problem: Problem, masks: Masks) -> Output:
        options: dict[str, Any] = {"lengths": problem.lengths} if form == LENGTHS else {}
        if masks is not NO_MASKS:
            options["masks"] = masks if isinstance(masks, list) else [masks]
        if form == PACKED:
            packed = pack_padded_sequence(problem.x, problem.lengths_on_cpu, enforce_sorted=False)
            y, (h_n, c_n) = module(packed, problem.hx, **options)
            y, _ = pad_packed_sequence(y, total_length=problem.size.T)
        else:
            y, (h_n, c_n) = module(problem.x, problem.hx, **options)
        return y, h_n.squeeze(0), c_n.squeeze(0)

    return layer


def nn_lstm(problem: Problem, _: Masks) -> Output:
    y, (h_n, c_n) = problem.lstm(problem.x, problem.hx)
    return y, h_n.squeeze(0), c_n.squeeze(0)


def lstm_cell_loop(problem: Problem) -> Layer:
    """What one writes by hand: nn.LSTMCell step by step, Gal's masks on x and h; no masks in a stack."""
    loops = CellLoops(problem)
    if problem.stack:
        return lambda problem, masks: loops.stack(problem.x, problem.h_0, problem.c_0)
    return lambda problem, masks: loops(
        problem.x if masks.x is None else problem.x * masks.x, problem.h_0, problem.c_0, masks.h
    )


class CellLoops(nn.Module):
    """The weights of the problem's nn.LSTM, themselves, in an nn.LSTMCell for each layer and direction."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        for W_ih, W_hh, b_ih, b_hh in problem.lstm.all_weights:
            cell = nn.LSTMCell(W_ih.shape[1], W_hh.shape[1], dtype=problem.dtype, device=problem.device)
            cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = W_ih, W_hh, b_ih, b_hh
            self.cells.append(cell)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, mask_h: Tensor | None = None, cell: int = 0) -> Output:
        y = []
        for x_t in x.unbind():
            h, c = self.cells[cell](x_t, (h if mask_h is None else h * mask_h, c))
            y.append(h)
        return torch.stack(y), h, c

    def stack(self, x: Tensor, h_0: Tensor, c_0: Tensor) -> Output:
        last = []
        for k in range(0, len(self.cells), 2):
            y, *last_forward = self(x, h_0[k], c_0[k], cell=k)
            y_reverse, *last_reverse = self(x.flip(0), h_0[k + 1], c_0[k + 1], cell=k + 1)
            x = torch.cat([y, y_reverse.flip(0)], dim=-1)
            last += [last_forward, last_reverse]
        h_n, c_n = (torch.stack(states) for states in zip(*last, strict=True))
        return x, h_n, c_n


def rnndrop(backend: str) -> Layer:
    """Our layer on that backend by its name, so that it cannot fall back to another."""

    def layer(problem: Problem, masks: Masks) -> Output:
        return functional.lstm_layer(
            problem.x, problem.h_0, problem.c_0, *problem.lstm.parameters(),
            **by_name(masks), backend=backend,
        )  # fmt: skip

    return layer


# ---------------------------------------------------------------- correctness


class VerificationError(Exception):
    """A contender computes something else than the reference."""


def verify(problem: Problem, contenders: Iterable[LayerContender]) -> None:
    """Compares outputs and gradients of each with the reference in float64, given the same masks.

    Raises:
        VerificationError: one of them differs by more than its dtype allows. The message says which, where and by
            how much.
    """
    allowed = tolerance(problem.dtype, problem.device)
    names = ("y", "h_n", "c_n", *(f"the gradient of {name}" for name in problem.leaves))
    past_the_end = torch.arange(problem.size.T, device=problem.device).unsqueeze(1) >= problem.lengths
    expectations: dict[tuple[Dropout, bool], tuple[Masks, list[Tensor]]] = {}
    for contender in contenders:
        lengths = problem.lengths if contender.knows_lengths else None
        key = (contender.dropout, contender.knows_lengths)
        if key not in expectations:
            masks = problem.draw(contender.dropout)
            expectations[key] = masks, problem.expected(masks, lengths)
        masks, expected = expectations[key]
        problem.modules.train()
        with contender.running():
            output = contender.layer(problem, masks)
            results = dict(zip(names, (*output, *contender.gradients_to_check(output)), strict=True))
        if lengths is not None:
            for name in ("y", "the gradient of x"):
                if results[name][past_the_end].any():
                    raise wrong(contender, f"{name} is not zero past the end of a sequence")
        if INFERENCE in contender.calls:
            problem.modules.eval()
            with contender.running():
                in_eval = contender.inference()
            results |= dict(zip(("y in eval", "h_n in eval", "c_n in eval"), in_eval, strict=True))
            expected = [*expected, *expected[:3]]
        for (name, result), wanted in zip(results.items(), expected, strict=True):
            if (error := relative_error(result, wanted)) > allowed:
                raise wrong(contender, f"{name} is off by {error:.2e} of its norm, {allowed:.0e} is allowed")


def wrong(contender: LayerContender, how: str) -> VerificationError:
    problem = contender.problem
    return VerificationError(f"{contender} ({problem.size}, {problem.dtype}) is wrong and was not timed: {how}")


def by_name(masks: LayerMasks) -> dict[str, Any]:
    return {"mask_x": masks.x, "mask_h": masks.h, "mask_g": masks.g}


# ---------------------------------------------------------------- the floor

Multiply = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def aten(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
    """out = a b, or out += a b."""
    return torch.addmm(out, a, b, out=out) if accumulate else torch.mm(a, b, out=out)


def onednn(out: Tensor, a: Tensor, b: Tensor, accumulate: bool) -> Tensor:
    """The same by oneDNN, which Python reaches only through a fused linear layer that allocates its result."""
    if accumulate:
        return torch.ops.mkldnn._linear_pointwise(a, out, b.t(), None, "add")
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


class Gemms:
    """The matrix products of a dense LSTM and nothing else: no dense LSTM on the same library is faster.

    Random matrices of the products' shapes, allocated once, each laid out as the library likes it best.
    """

    name = GEMMS
    dropout = NO_DROPOUT
    # glibc hands larger blocks back to the system, and a fresh one costs more than the product's own writes.
    LARGEST_RESULT = 16 << 20

    def __init__(self, problem: Problem, library: str, multiply: Multiply) -> None:
        T, B, I, H = problem.size
        self.backend, self.multiply, self.sequences = library, multiply, PACKED if problem.ragged else FULL
        # How many sequences have a step t, and the steps of all of them.
        self.batch_sizes = [int((problem.lengths_on_cpu > t).sum()) for t in range(T)]
        N = sum(self.batch_sizes)
        self.W_ih, self.W_hh = problem.random(4 * H, I), problem.random(4 * H, H)
        self.x, self.h, self.h_all = problem.random(N, I), problem.random(B, H), problem.random(N, H)
        self.da, self.da_t, self.da_step = (problem.random(*s) for s in ((N, 4 * H), (4 * H, N), (B, 4 * H)))
        self.gates, self.dx, self.dh = (torch.randn_like(like) for like in (self.da, self.x, self.h))
        self.steps = [(self.h[:b], self.da_step[:b], self.dh[:b]) for b in self.batch_sizes]
        self.dW_ih, self.dW_hh = torch.randn_like(self.W_ih), torch.randn_like(self.W_hh)
        self.rows = max(1, self.LARGEST_RESULT // (4 * max(4 * H, I)))

    @property
    def calls(self) -> dict[str, Callable[[], object]]:
        return {INFERENCE: self.forward, FORWARD: self.forward, FORWARD_BACKWARD: self.forward_backward}

    def running(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def forward(self) -> None:
        self.multiply_rows(self.gates, self.x, self.W_ih.t())
        for gates, (h, _, _) in zip(self.gates.split(self.batch_sizes), self.steps, strict=True):
            self.multiply(gates, h, self.W_hh.t(), True)

    def forward_backward(self) -> None:
        self.forward()
        for _, da, dh in self.steps:
            self.multiply(dh, da, self.W_hh, False)
        self.multiply_rows(self.dx, self.da, self.W_ih)
        self.multiply(self.dW_ih, self.da_t, self.x, False)
        self.multiply(self.dW_hh, self.da_t, self.h_all, False)

    def multiply_rows(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        for out_rows, a_rows in zip(out.split(self.rows), a.split(self.rows), strict=True):
            self.multiply(out_rows, a_rows, b, False)


def floors(problem: Problem) -> list[Gemms]:
    """The GEMMs by each library that can be reached from Python; the floor is the fastest of them. Of a stack: none."""
    if problem.stack:
        return []
    if problem.device.type == "cuda":
        return [Gemms(problem, "cuBLAS", aten)]
    gemms = [Gemms(problem, "ATen", aten)]
    if problem.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        gemms.append(Gemms(problem, "oneDNN", onednn))
    return gemms
