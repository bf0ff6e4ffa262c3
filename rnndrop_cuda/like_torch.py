"""What code written for nn.LSTM asks of a layer, besides a forward: the way from and to it, and its helpers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from rnndrop_cuda import ops
from rnndrop_cuda.masks import noises_on

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from rnndrop_cuda.options import PresetOptions


PlainLSTM = nn.modules.rnn.LSTM  # nn.LSTM may be ours: users put it there
Layer = TypeVar("Layer", bound=nn.RNNBase)


class Shown:
    """An attribute of a class that reads another one; unlike a property it leaves its name to subclasses' instances."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else getattr(layer, self._name)


class LikeTorch(nn.RNNBase):
    """The part of :class:`rnndrop_cuda.LSTM` that is there for code written for nn.LSTM."""

    learn_initial_state: bool
    mc_dropout: bool
    _drops_between_layers: bool
    weight_ih_l0: nn.Parameter

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """nn.LSTM's, but for its list of weights: functional_call gives others, which may be of another dtype."""
        expected = self._flat_weights[0]
        if expected is not None and expected.dtype != input.dtype == self._weight("weight_ih_l0").dtype:
            input = torch.empty_like(input, dtype=expected.dtype, device="meta")
        super().check_input(input, batch_sizes)

    def _weights(self) -> list[list[Any]]:
        """Those of each layer and direction, as nn.LSTM has them.

        They are its list of weights, in the place of which code that computes weights may put another; or, where a
        parameter is another than when that was made (swapped, mapped), the parameters. What is no parameter, but
        parametrized, say, may be drawn: it is asked for once.
        """
        own, in_list = self._parameters, dict(zip(self._flat_weights_names, self._flat_weights, strict=True))
        have_changed = self._parameters_have_changed()
        if have_changed and ops.runs_as_written() and all(type(own.get(name)) is nn.Parameter for name in in_list):
            self._init_flat_weights()
        list_counts = () if have_changed else own
        return [
            [in_list[name] if name in list_counts else self._weight(name) for name in names]
            for names in self._all_weights
        ]

    def _weight(self, name: str) -> Any:
        """What has a weight's name, asked for once; where code has deleted it, the weight in nn.LSTM's list."""
        if name in self._parameters:
            return self._parameters[name]
        is_gone = name not in self.__dict__ and name not in self._buffers and not hasattr(type(self), name)
        return self._flat_weights[self._flat_weights_names.index(name)] if is_gone else getattr(self, name)

    def _parameters_have_changed(self) -> bool:
        """Whether a parameter is another than when nn.LSTM's list of weights was made."""
        refs = zip(self._flat_weights_names, self._flat_weight_refs, strict=False)  # there are none within _apply
        own = self._parameters
        return any(name in own and ref is not None and ref() is not own[name] for name, ref in refs)

    @classmethod
    def from_torch(cls, lstm: nn.LSTM, **ours: Unpack[PresetOptions]) -> Self:
        """A layer of this class with the sizes, options, weights, device, dtype and mode of an nn.LSTM.

        Which parameters require a gradient, and which are one, is kept too. A parametrized weight becomes the value
        that it has now. Nothing is drawn from torch's generators.

        Args:
            lstm: the layer to copy; it is not changed. A TorchLSTM counts as what its :meth:`to_torch` gives.
            ours: keywords that nn.LSTM lacks, such as input_dropout.

        Raises:
            TypeError: lstm is not an nn.LSTM, or a keyword is unknown.
            ValueError: lstm has a forward of its own; or dropout between its layers, and this class (GalLSTM,
                SemeniutaLSTM) has none; or init or forget_bias is given, though the weights are lstm's.
        """
        if not isinstance(lstm, PlainLSTM):
            raise TypeError(f"lstm: expected an nn.LSTM, got {type(lstm).__name__}")
        if isinstance(lstm, LikeTorch):
            lstm = lstm.to_torch()
        if type(lstm).forward is not PlainLSTM.forward:
            raise ValueError(f"lstm: expected torch's own nn.LSTM, got {type(lstm).__name__} with a forward of its own")
        for name in ("init", "forget_bias"):
            if name in ours:
                raise ValueError(f"{name}: expected none, since the weights are the nn.LSTM's, got {ours.get(name)!r}")
        make: Callable[..., Self] = cls
        return _with_weights_of(lstm, lambda: make(**cls._options_of(lstm), **ours))

    @classmethod
    def _options_of(cls, lstm: nn.LSTM) -> dict[str, Any]:
        """The keywords with which this class has the form of an nn.LSTM."""
        return torch_options(lstm) | {"dropout": lstm.dropout}

    def to_torch(self) -> nn.LSTM:
        """The nn.LSTM that this layer is in eval, with its weights, device, dtype and mode; dropout inside is lost.

        What :meth:`from_torch` keeps is kept here.

        Raises:
            ValueError: the layer has what nn.LSTM has not in eval: a learned initial state, zoneout, ``mc_dropout``, or
                a forward of its own.
        """
        if why := what_torch_lacks(self):
            raise ValueError(f"to_torch: nn.LSTM cannot take this layer's place: {why}")
        return _with_weights_of(self, lambda: PlainLSTM(**self._as_torch()))

    def _as_torch(self) -> dict[str, Any]:
        """The keywords with which nn.LSTM has this layer's form."""
        return torch_options(self) | {"dropout": self.dropout if self._drops_between_layers else 0.0}

    # nn.LSTM's, not those of nn.RNNBase, which know no c.
    get_expected_cell_size = PlainLSTM.get_expected_cell_size
    check_forward_args = PlainLSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = PlainLSTM.permute_hidden  # type: ignore[assignment]

    def __setattr__(self, attr: str, value: Any) -> None:
        if attr == "qconfig":  # torch.ao.quantization gives one to every module, and swaps those that it knows
            warnings.warn(
                f"{type(self).__name__} stays in floating point: quantisation knows nn.LSTM only. Quantise "
                "rnndrop_cuda.to_torch(model)",
                stacklevel=2,
            )
        super().__setattr__(attr, value)
        names = self.__dict__.get("_flat_weights_names", ())
        if attr in names and isinstance(value, nn.Parameter) and len(self._flat_weight_refs) == len(names):
            # What nn.LSTM does in its next forward: the list, of which this is a part by now, is as if made anew.
            self._flat_weight_refs[names.index(attr)] = weakref.ref(value)
        if attr == "_is_hf_initialized" and value:
            self._draw_what_nobody_wrote()

    @torch.no_grad()
    def _draw_what_nobody_wrote(self) -> None:
        """Give parameters their first values where Hugging Face's from_pretrained says that it did.

        It knows nn.LSTM only, marks what it has read from a file, and leaves the rest as memory that nothing was
        written to: its version is still 0.
        """
        parameters = dict(self.named_parameters(recurse=False))
        missing = [p for p in parameters.values() if not getattr(p, "_is_hf_initialized", False)]
        if not missing or any(p.is_meta or p.is_inference() or p._version for p in missing):
            return
        read = {name: p.clone() for name, p in parameters.items() if getattr(p, "_is_hf_initialized", False)}
        self.reset_parameters()
        for name, value in read.items():
            parameters[name].copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files have no packed weights, which are of the very tensors that this layer has."""
        state = super().__getstate__()
        state.pop("_packed", None)
        return state

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script asks every module for what to compile in its place."""
        raise RuntimeError(
            f"torch.jit.script does not support {type(self).__name__}: script rnndrop_cuda.to_torch(model), which has "
            "nn.LSTM in its place, or trace the model in eval with torch.jit.trace"
        )

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """nn.Module's way to forward while torch.jit.trace records, which warns of every size that a check reads."""
        message, where = "Converting a tensor to a Python boolean", r"rnndrop_cuda\.|torch\.nn\.modules\.rnn$"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message, torch.jit.TracerWarning, where)
            return super()._slow_forward(*args, **kwargs)

    def _fx_call(self, *args: Any, **kwargs: Any) -> Any:
        """A call with proxies in it as one node, as torch.fx has nn.LSTM's; None where there are none."""
        proxies = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, fx.Proxy)]
        if not proxies:
            return None
        tracer: Any = proxies[0].tracer
        given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
        return tracer.create_proxy("call_module", tracer.path_of_module(self), args, given)

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels read every weight where it is. Here for code written for nn.LSTM."""


def what_torch_lacks(layer: LikeTorch) -> str:
    """What a layer does in eval that nn.LSTM cannot; "" where there is nothing."""
    if not type(layer).forward.__module__.startswith("rnndrop_cuda."):
        return f"{type(layer).__name__} has a forward of its own"
    if layer.learn_initial_state:
        return "learn_initial_state=True, and nn.LSTM has no h_0 and c_0 of its own"
    on = {row.keyword: p for row, p, _ in noises_on(layer)}
    if layer.mc_dropout and on:
        return "mc_dropout=True, and nn.LSTM has no dropout in eval"
    for keyword in ("hidden_zoneout", "cell_zoneout"):
        if keyword in on:
            return f"{keyword}={on[keyword]} acts in eval too, and nn.LSTM has none"
    return ""


def _with_weights_of(lstm: nn.RNNBase, make: Callable[[], Layer]) -> Layer:
    """The layer that is made, with the parameters of nn.LSTM that another one has, and in its mode."""
    device = torch_options(lstm)["device"]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        made = make()
    copies: dict[int, nn.Parameter] = {}
    with torch.no_grad():
        for name in lstm._flat_weights_names:
            weight = getattr(lstm, name)
            if id(weight) in copies:
                setattr(made, name, copies[id(weight)])
            else:
                copies[id(weight)] = copy = getattr(made, name)
                copy.copy_(weight).requires_grad_(weight.requires_grad)
    return made.train(lstm.training)


def torch_options(lstm: nn.RNNBase) -> dict[str, Any]:
    """nn.LSTM's keywords for what a module is like, without its dropout."""
    like: Tensor = lstm.all_weights[0][0]
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names} | {"device": like.device, "dtype": like.dtype}
