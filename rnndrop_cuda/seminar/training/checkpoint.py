"""A checkpoint of `rnndrop train` or `language-model`: a folder of plain files, whole at every instant.

    checkpoint.json             kind, settings, what training had reached, and name and sha256 of the two others
    words-<hash>.json           the vocabulary: the word of each id
    tensors-<hash>.safetensors  model.* as in its state_dict; to resume from, optimizer.* and generator.* as well

The two are written first, under names made of their content; then checkpoint.json takes the place of the old one in
one step, and what it no longer names is deleted. Killed anywhere in between, the folder holds the old checkpoint or the
new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rnndrop_cuda.files import write_whole
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS, check_utf8
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.settings import TrainSettings

FILE_NAME = "checkpoint.json"
FORMAT = 5
READABLE = (1, 2, 3, 4, FORMAT)
NEW_SETTINGS = {
    2: ("variable_length", "options", "embedding_init", "embedding_dropout_scope"),
    3: ("pretrained", "gradual_unfreezing", "pooling"),
    4: ("optimizer", "one_cycle", "layer_decay", "loss_reduction", "anneal"),
    5: ("anneal_after",),
}
"""By the format that had them first: in what is older they are at their defaults."""
MODEL = "model."


class NoCheckpointError(FileNotFoundError):
    """There is none where one was looked for. command: what makes such a one, "train" or another of `rnndrop`'s."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


class Settings(Protocol):
    """The settings of a run that writes checkpoints: a frozen dataclass."""

    COMMAND: ClassVar[str]
    """The command that it is a run of, which its checkpoints name as their kind."""
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def check(self) -> None:
        """ValueError, naming the field, where settings do not fit one another."""


S = TypeVar("S", bound=Settings)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint(Generic[S]):
    """What a checkpoint's files hold."""

    settings: S
    words: list[str]
    """words[id] is an id's word."""
    tensors: dict[str, Tensor]
    """On the CPU, by their names in the file."""
    progress: dict[str, Any]
    """What training had reached, as JSON."""

    @property
    def pretrained(self) -> dict[str, Any] | None:
        """About the language model that the run started from; None: it started from none."""
        return self.progress.get("pretrained")

    def load_into(self, model: M) -> M:
        """Gives a model of the settings these weights; ValueError where they are not the settings' own."""
        weights = self._weights()
        expected = model.state_dict()
        _check_sizes(weights, {name: tensor.shape for name, tensor in expected.items()})
        check_like(weights, expected)
        model.load_state_dict(weights)
        return model

    def _weights(self) -> dict[str, Tensor]:
        return {name.removeprefix(MODEL): t for name, t in self.tensors.items() if name.startswith(MODEL)}

    def build(self: Checkpoint[TrainSettings]) -> RNNClassifier:
        """The classifier with these weights, in eval; errors as load_into's."""
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS or len(self.words) > self.settings.vocab_size:
            raise ValueError(
                f"the checkpoint's words: expected {' '.join(SPECIAL_WORDS)} and others, one an id at most"
            )
        try:
            with torch.device("meta"):  # sizes that do not fit the file are not allocated
                sizes = {name: tensor.shape for name, tensor in self.settings.build().state_dict().items()}
        except (RuntimeError, OverflowError, TypeError) as error:
            raise ValueError(f"the checkpoint's weights do not fit its settings: {_one_line(error)}") from error
        _check_sizes(self._weights(), sizes)
        return self.load_into(self.settings.build()).eval()


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[RNNClassifier, list[str], TrainSettings]:
    """The classifier (on the CPU, in eval), its vocabulary (words[id]), and its settings.

    folder: a checkpoint, or what `rnndrop train` wrote: then the best one in it, or else the last.
    Raises FileNotFoundError where there is none, ValueError where it is damaged or of another version.
    """
    checkpoint = read(find(folder))
    return checkpoint.build(), checkpoint.words, checkpoint.settings


def find(folder: str | os.PathLike[str], command: str = "train") -> Path:
    """The folder itself if it is a checkpoint, or else best/ or last/ in it.

    NoCheckpointError where none is; command: of that.
    """
    folder = Path(folder)
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / FILE_NAME).is_file():
            return candidate
    if not folder.exists():
        raise NoCheckpointError(f"no checkpoint at {folder}: there is no such folder", command)
    raise NoCheckpointError(f"no checkpoint at {folder}: no {FILE_NAME} in it, nor in best/ or last/", command)


def save(folder: Path, checkpoint: Checkpoint[S]) -> None:
    """Puts the checkpoint in the place of the folder's own; see the top of this file. OSError as writing raises it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    files = {
        "words": _write_content(folder, "words", ".json", _json(checkpoint.words)),
        "tensors": _write_content(folder, "tensors", ".safetensors", safetensors.torch.save(tensors)),
    }
    contents = {
        "format": FORMAT,
        "kind": checkpoint.settings.COMMAND,
        "settings": dataclasses.asdict(checkpoint.settings),
        "progress": checkpoint.progress,
        "files": files,
    }
    write_whole(folder / FILE_NAME, _json(contents, indent=1))
    named = {FILE_NAME, *(file["name"] for file in files.values())}
    for path in folder.iterdir():
        ours = path.name.startswith(("words-", "tensors-", FILE_NAME))
        if ours and path.name not in named:
            path.unlink()


def read(folder: Path) -> Checkpoint[TrainSettings]:
    """The classifier's checkpoint in the folder. Errors as read_of's."""
    return read_of(folder, TrainSettings)


def read_of(folder: Path, kind: type[S]) -> Checkpoint[S]:
    """The checkpoint in the folder, of a run with settings of this kind.

    Raises FileNotFoundError where there is none, ValueError where a file is damaged, or of another version or kind.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {folder}: {'no ' + FILE_NAME if folder.exists() else 'no such folder'}"
        )
    contents = _parsed(file, file.read_bytes())
    try:
        found = contents["format"]
        if found not in READABLE:
            raise ValueError(f"{file} is of format {found!r}, this version reads {', '.join(map(str, READABLE))}")
        if (command := contents.get("kind", TrainSettings.COMMAND)) != kind.COMMAND:  # the first ones do not say
            raise ValueError(f"{folder} is a checkpoint of rnndrop {command}, not of rnndrop {kind.COMMAND}")
        settings = _settings(contents["settings"], found, kind)
        words_file, words = _content(folder, contents["files"]["words"])
        tensors_file, tensors = _content(folder, contents["files"]["tensors"])
        progress = contents["progress"]
        if not isinstance(progress, dict):
            raise TypeError(f"progress: expected an object, got {progress!r}")
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} is no checkpoint of rnndrop {kind.COMMAND}: {what}") from error
    vocabulary = _parsed(words_file, words)
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError(f"{words_file} is damaged: expected a list of words")
    check_utf8(vocabulary, f"{words_file} is damaged")
    try:
        return Checkpoint(settings, vocabulary, safetensors.torch.load(tensors), progress)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{tensors_file} is damaged: {_one_line(error)}") from error


def check_like(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError where a tensor has another dtype than the one of its name, or a value that is not finite."""
    for name, tensor in found.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            raise ValueError(f"the checkpoint's {name}: expected {expected[name].dtype}, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"the checkpoint's {name} has values that are not finite")


def _check_sizes(found: Mapping[str, Tensor], sizes: Mapping[str, torch.Size]) -> None:
    """ValueError, naming a few, where weights are missing, too many or of other sizes."""
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if others := sorted(name for name in sizes.keys() | shapes.keys() if sizes.get(name) != shapes.get(name)):
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise ValueError(f"the checkpoint's weights do not fit its settings: {', '.join(others[:5])}{more}")


def _write_content(folder: Path, stem: str, suffix: str, data: bytes) -> dict[str, str]:
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"{stem}-{sha256[:16]}{suffix}"
    if not path.exists():
        write_whole(path, data)
    return {"name": path.name, "sha256": sha256}


def _content(folder: Path, file: Mapping[str, str]) -> tuple[Path, bytes]:
    path = folder / Path(file["name"]).name  # never outside of the folder
    if not path.is_file():
        raise ValueError(f"the checkpoint {folder} is not whole: {path.name} is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        raise ValueError(f"{path} is damaged: its sha256 is not the one in {FILE_NAME}")
    return path, data


def _json(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    return text.encode(errors="surrogatepass")  # as json.loads reads it: a path need not be UTF-8


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # of UTF-8, too; of brackets in brackets
        raise ValueError(f"{path} is damaged: {_one_line(error)}") from error


def _settings(values: dict[str, Any], written_as: int, of: type[S]) -> S:
    """As they were saved: every setting there, none besides, each of its type."""
    hints = typing.get_type_hints(of)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(of)}
    for number, names in NEW_SETTINGS.items():  # in format 1 maxlen null was what variable_length is
        if written_as < number:
            values = {**{name: getattr(of, name) for name in names if name in kinds}, **values}
    if values.keys() != kinds.keys():
        raise ValueError(f"the checkpoint has other settings than this version: {sorted(values.keys() ^ kinds.keys())}")
    values = dict(values)
    for name, kind in kinds.items():
        expected = typing.get_args(kind) if isinstance(kind, types.UnionType) else (typing.get_origin(kind) or kind,)
        if tuple in expected and isinstance(values[name], list):  # JSON has lists only
            values[name] = tuple(tuple(x) if isinstance(x, list) else x for x in values[name])
        if type(values[name]) not in expected:
            raise ValueError(f"the checkpoint's {name}: expected {kind}, got {values[name]!r}")
    settings = of(**values)
    settings.check()
    return settings


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
