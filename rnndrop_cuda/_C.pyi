from collections.abc import Callable, Sequence

from torch import Generator, Tensor, dtype

def lstm_layer(*args: Tensor | bool | None) -> tuple[Tensor, ...]: ...
def lstm_layer_both_ways(
    forwards: tuple[Tensor | None, ...], backwards: tuple[Tensor | None, ...], save: bool, /
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]: ...
def plain_call(
    input: object,
    is_packed: bool,
    hx: object,
    lengths: object,
    layer: object,
    parameters: dict[str, Tensor],
    names: list[list[str]],
    flat_weights: list[Tensor],
    input_size: int,
    hidden_size: int,
    proj_size: int,
    bidirectional: bool,
    batch_first: bool,
    draw: Callable[[int, int], object] | None,
    packed: object,
    backend: str,
    dtype: dtype | None,
    /,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None: ...
def draw_dropout_masks(
    dims: Sequence[int],
    sizes: Sequence[int],
    drop: Sequence[int],
    dropped: Sequence[float],
    kept: Sequence[float],
    like: Tensor,
    generator: Generator | None,
    /,
) -> list[Tensor]: ...
def longest_first(
    lengths: Tensor, T: int, I: int, H: int, P: int, layers: int, directions: int, /
) -> Tensor | None: ...
def pack_layers(weights: list[Tensor], /) -> object: ...
def build_facts_json() -> str: ...
def uses_amx() -> bool: ...
def vector_isa() -> str: ...
def cuda_engine() -> str: ...
def set_cuda_engine(name: str) -> None: ...
def explain_on_current_gpu(dtype: str, tf32: bool, T: int, B: int, H: int) -> tuple[str, str]: ...
def explain_cuda_engine(
    dtype: str, tf32: bool, T: int, B: int, H: int, major: int, n_sm: int, shared_memory: int
) -> tuple[str, str]: ...
def timed_cuda_plans() -> list[str]: ...
def set_cuda_trials(*, registers: bool = True, prefetch: int = 0, pieces: int = 1, multicast: int = 0) -> None: ...
