"""What code written for nn.LSTM asks of a layer, besides a forward: the way from and to it, and its helpers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class LikeTorch(nn.RNNBase):
    """The part of :class:`rnndrop_cuda.LSTM` that is there for code written for nn.LSTM."""

    learn_initial_state: bool
    _drops_between_layers: bool

    @classmethod
    def from_torch(cls, lstm: nn.LSTM, **ours: Any) -> Self:
        """A layer of this class with the sizes, options, weights, device, dtype and mode of an nn.LSTM.

        Args:
            lstm: is left as it is.
            ours: further keywords of this class, such as its dropout.

        Raises:
            TypeError: lstm is not an nn.LSTM, or a keyword is unknown.
            ValueError: lstm has dropout between its layers, and this class has none.
        """
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"lstm: expected an nn.LSTM, got {type(lstm).__name__}")
        copy = cls(**(cls._options_of(lstm) | ours))
        copy.load_state_dict(lstm.state_dict())
        return copy.train(lstm.training)

    @classmethod
    def _options_of(cls, lstm: nn.LSTM) -> dict[str, Any]:
        """The keywords with which this class has the form of an nn.LSTM."""
        return torch_options(lstm) | {"dropout": lstm.dropout}

    def to_torch(self) -> nn.LSTM:
        """The nn.LSTM with the same sizes, options, weights, device, dtype and mode; dropout inside is lost.

        Raises:
            ValueError: the initial state is learned, which nn.LSTM cannot hold.
        """
        if self.learn_initial_state:
            raise ValueError(
                "learn_initial_state: expected False, since nn.LSTM has no h_0 and c_0 of its own; got True"
            )
        copy = nn.LSTM(**torch_options(self), dropout=self.dropout if self._drops_between_layers else 0.0)
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels read every weight where it is. Here for code written for nn.LSTM."""


def torch_options(lstm: nn.RNNBase) -> dict[str, Any]:
    """nn.LSTM's keywords for what a module is like, without its dropout."""
    like: Tensor = lstm.all_weights[0][0]
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names} | {"device": like.device, "dtype": like.dtype}
