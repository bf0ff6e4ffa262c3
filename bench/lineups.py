"""Who is timed together: the contenders of a case, on a CPU and on a GPU.

nn.LSTM, a Python loop over nn.LSTMCell, rnndrop_cuda's functional layer and its module. On CUDA also each of our
engines by name, the plan that the GPU is fastest with, and those of bench/rivals.py that can run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import rnndrop_cuda
from bench import layers, rivals
from bench.contenders import TIMED, LayerContender, ModuleContender
from bench.grids import ALL, MAIN, RAGGED
from bench.problems import NO_DROPOUT, Dropout, Problem
from bench.records import CELL_LOOP, FULL, LENGTHS, MODULE, NN_LSTM, OP, PACKED, PADDED, STACK
from rnndrop_cuda import engines

ENGINES = engines.ENGINES[1:]  # all that have a name of their own
MAIN_KINDS = ("none", "Gal batch", "Semeniuta step", "Semeniuta sequence")
CUDA_KINDS = ("none", "Gal batch", "Semeniuta step", "both")


def all_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """nn.LSTM and the LSTMCell loop, then each of our backends with each kind of dropout, then our module.

    The python backend is timed with the first and the last kind only: its time is that of its step loop, and a run
    should end in minutes.
    """
    cell_loop = layers.lstm_cell_loop(problem)
    contenders = [
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.nn_lstm, problem),
        *(
            LayerContender(CELL_LOOP, "", kind, cell_loop, problem)
            for kind in kinds
            if kind.name in ("none", "Gal batch")
        ),
    ]
    for backend in backends:
        timed = [kinds[0], kinds[-1]] if backend == "python" else kinds
        contenders += [LayerContender(OP, backend, kind, layers.rnndrop(backend), problem) for kind in timed]
    return contenders + ours(problem, backends, kinds, [FULL])


def main_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """What is compared over many sizes: nn.LSTM, the LSTMCell loop, our module with each paper's dropout."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.nn_lstm, problem),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, layers.lstm_cell_loop(problem), problem),
        *ours(problem, backends, kinds, [FULL]),
    ]


def ragged_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """nn.LSTM on a PackedSequence and on the padded batch; our module on both, and on the padded batch with lengths."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.as_module(problem.lstm, PACKED), problem, PACKED),
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.nn_lstm, problem, PADDED),
        *ours(problem, backends, [NO_DROPOUT], [PACKED, LENGTHS, PADDED]),
        *ours(problem, backends, [kind for kind in kinds if kind != NO_DROPOUT], [LENGTHS]),
    ]


def stack_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """Two layers in both directions: nn.LSTM, the loop, and our module."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.as_module(problem.lstm, FULL), problem, STACK),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, layers.lstm_cell_loop(problem), problem, STACK),
        *ours(problem, backends, kinds, [STACK]),
    ]


def cuda_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """nn.LSTM, the loop and the rivals, our op on each engine that runs this size, and our module."""
    return [
        LayerContender(NN_LSTM, "", NO_DROPOUT, layers.nn_lstm, problem),
        LayerContender(CELL_LOOP, "", NO_DROPOUT, layers.lstm_cell_loop(problem), problem),
        *rivals.running(problem),
        *by_engine(problem, [kinds[0], kinds[-1]]),
        *ours(problem, backends, kinds, [FULL]),
    ]


def cuda_ragged_layers(problem: Problem, backends: Iterable[str], kinds: list[Dropout]) -> list[LayerContender]:
    """The ragged ones, and the loop, which computes every sequence to its padded end."""
    loop = LayerContender(CELL_LOOP, "", NO_DROPOUT, layers.lstm_cell_loop(problem), problem, PADDED)
    return [*ragged_layers(problem, backends, kinds), loop]


def by_engine(problem: Problem, kinds: list[Dropout]) -> list[LayerContender]:
    """Our op on each engine by name, and with plans that are timed.

    An engine that leaves both forward and backward to stepwise is left out.
    """
    contenders = [
        LayerContender(OP, f"cuda {TIMED}", kind, layers.rnndrop("cuda"), problem, engine=TIMED) for kind in kinds
    ]
    for engine in ENGINES:
        with rnndrop_cuda.cuda_engine(engine):
            explained = rnndrop_cuda.explain_engine(*problem.size, dtype=problem.dtype)
        if f"{engine}:" in explained:
            contenders += [
                LayerContender(OP, f"cuda {engine}", kind, layers.rnndrop("cuda"), problem, engine=engine)
                for kind in kinds
            ]
        else:
            problem.left_out.append(f"engine {engine}: {' | '.join(explained.splitlines())}")
    return contenders


def ours(problem: Problem, backends: Iterable[str], kinds: list[Dropout], forms: Iterable[str]) -> list[LayerContender]:
    """Our module with the papers' kinds of dropout, on the backends with kernels; on python if no other is named."""
    backends = list(backends)
    contenders: list[LayerContender] = []
    names = CUDA_KINDS if problem.device.type == "cuda" else MAIN_KINDS
    for backend in [name for name in backends if name != "python"] or backends:
        for kind, form in product([kind for kind in kinds if kind.name in names], forms):
            module = problem.module(backend, kind)
            contenders.append(
                ModuleContender(MODULE, backend, kind, layers.as_module(module, form), problem, form, module=module)
            )
    return contenders


Lineup = Callable[[Problem, Iterable[str], list[Dropout]], list[LayerContender]]
OF_CPU: dict[str, Lineup] = {ALL: all_layers, MAIN: main_layers, RAGGED: ragged_layers, STACK: stack_layers}
OF_CUDA = OF_CPU | {ALL: cuda_layers, RAGGED: cuda_ragged_layers}
LINEUPS = {"cpu": OF_CPU, "cuda": OF_CUDA}
"""By device, then by a case's `who`."""
