"""Small runs of `rnndrop train` on the npz of tests."""

from command_line import status

from rnndrop_cuda.seminar.commands import train as train_command

SMALL = [
    "--unverified-data", "--vocab-size", "20", "--maxlen", "8", "--n-emb", "6", "--n-hidden", "4", "--batch-size", "16",
    "--learning-rate", "0.01", "--device", "cpu",
]  # fmt: skip


def train(*arguments):
    return status(train_command.main, *arguments)


def without(command, flag):
    """The command without the flag and its value."""
    at = command.index(flag)
    return command[:at] + command[at + 2 :]
