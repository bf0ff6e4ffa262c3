"""LSTM layers with dropout inside the recurrence, at the speed of nn.LSTM."""

from rnndrop_cuda import functional
