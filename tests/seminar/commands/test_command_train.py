"""`rnndrop train`: flags and files, resuming, and wrong input told in one line."""

import sys

import pytest
from command_line import one_line
from train_runs import train, without

from rnndrop_cuda.seminar.commands import options, train_options
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME, read
from rnndrop_cuda.seminar.training.trainer import Trainer


def test_files_give_options_and_flags_win(npz, tmp_path):
    toml, yaml = tmp_path / "run.toml", tmp_path / "run.yaml"
    toml.write_text(f'data = "{npz}"\nbatch-size = 7\nlearning_rate = 1e-2\nvariable_length = true\nautocast = false\n')
    yaml.write_text(
        f"data: {npz}\nbatch-size: 7\nlearning_rate: 1e-2\nvariable_length: true\nautocast: no\npatience:\n"
    )
    expected = {"data": str(npz), "batch_size": 7, "learning_rate": 0.01, "variable_length": True, "autocast": False}
    for file in (toml, yaml):
        given = options.given(train_options.make_parser(), ["--config", str(file)])
        assert {key: value for key, value in given.items() if key != "config"} == expected
        given = options.given(train_options.make_parser(), ["--config", str(file), "--maxlen", "5", "--autocast"])
        assert (given["maxlen"], given["autocast"], given["batch_size"]) == (5, True, 7)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.toml", "batchsize = 3", "unknown key 'batchsize'; did you mean batch_size?"),
        ("a.toml", "[run]\nepochs = 3", "unknown key 'run.epochs'; did you mean epochs?"),
        ("a.yaml", "a_very_long_name: 1", "unknown key 'a_very_long_name'; choose from out, resume, "),
        ("a.yaml", "batch_size: [1, 2]", "--batch-size: expected a whole number of at least 1, got [1, 2]"),
        ("a.toml", "batch_size = 0", "a.toml: --batch-size: expected a whole number of at least 1, got 0"),
        ("a.toml", "batch_size = true", "--batch-size: expected a whole number of at least 1, got True"),
        ("a.yaml", "seed: 1.5", "--seed: expected a whole number in [0, 2**63), got 1.5"),
        ("a.toml", "autocast = 1", "--autocast: expected true or false, got 1"),
        ("a.toml", 'layer = "GRU"', "--layer: no layer 'GRU'"),
        ("a.yaml", "data: [1]", "--data: expected text, got [1]"),
        ("a.yaml", "monitor: luck", "--monitor: 'luck' not among choices"),
        ("a.toml", "batch_size 0", "Expected '=' after a key"),
        ("a.yaml", "a: b: c", "mapping values are not allowed"),
        ("a.yaml", "- 1", "expected keys and values"),
        ("a.ini", "", "must end in .toml, .yaml or .yml"),
    ],
)
def test_wrong_files_are_told_in_one_line(name, text, message, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert train("--config", tmp_path / name) == 2
    line = one_line(capsys)
    assert message in line
    assert name in line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--config", "nowhere.toml"], "--config nowhere.toml: there is no such file"),
        (["--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["--layer", "GRU"], "no layer 'GRU'"),
        (["--layer", "GalLSTM:2"], "expected a dropout probability in [0, 1], got '2'"),
        (
            ["--layer", "RNNLayer:0.5", "--variable-length"],
            "--variable-length: expected nn.LSTM or one of this",
        ),
        (["--layer", "MyLSTM:0", "--num-layers", "2"], "--num-layers: expected 1 with MyLSTM, got 2"),
        (["--layer", "nn.LSTM", "--mask-scope", "sample"], "--mask-scope: expected batch with nn.LSTM, got sample"),
        (["--word-dropout", "1"], "--word-dropout: expected a probability in [0, 1), got '1'"),
        (["--compile", "nonsense"], "--compile: expected one of"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["--data", "nowhere.npz"], "--data: expected one of movie-reviews"),
        (["--reviews", "1000000"], "--reviews: expected at most 48"),
        (["--validation", "48"], "--validation: expected"),
        (["--resume", "nowhere"], "no checkpoint at nowhere/last: no such folder"),
        (["--resume", "a", "--out", "b"], "--out: not allowed with argument --resume"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message, command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = command[:-2] if "--resume" in options else command
    command = without(command, "--maxlen") if "--variable-length" in options else command
    assert train(*command, *options) == 2
    assert message in one_line(capsys)


def test_only_the_first_process_complains(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert train("--epochs", "0") == 2
    assert train("--config", "nowhere") == 2
    assert capsys.readouterr() == ("", "")


def test_a_missing_extra_is_told(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train(*command, "--tensorboard") == 2
    assert "from the checkout, pip install '.[tensorboard]'" in one_line(capsys)


def test_the_same_command_resumes_and_another_is_refused(command, out, capsys):
    assert train(*command) == 0
    before = (out / "last" / FILE_NAME).read_bytes()
    assert train(*command) == 0
    assert (out / "last" / FILE_NAME).read_bytes() == before
    capsys.readouterr()
    assert train(*command, "--batch-size", "7") == 2
    assert "holds a run with batch_size 16, not 7: use another --out, or --fresh" in one_line(capsys)
    assert train("--resume", out, "--n-hidden", "5") == 2
    assert "its run has n_hidden 4, not 5" in one_line(capsys)
    assert train("--resume", out / "last") == 2
    assert "name the run's folder" in one_line(capsys)
    assert train(*command, "--batch-size", "7", "--fresh") == 0
    assert read(out / "last").settings.batch_size == 7
    assert (out.with_name("run.1") / "last" / FILE_NAME).read_bytes() == before


def test_a_checkpoint_of_another_device_resumes_with_a_warning(command, out, capsys):
    assert train(*command, "--epochs", "1") == 0
    file = out / "last" / FILE_NAME
    file.write_text(file.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    capsys.readouterr()
    assert train("--resume", out, "--device", "cpu") == 0
    resuming, warning = capsys.readouterr().err.splitlines()[:2]
    assert resuming == f"rnndrop train: resuming from {out / 'last'}: 1 of 1 epochs and 0 batches are done"
    assert warning == ("rnndrop train: warning: the checkpoint was written on cuda; results will not be bit-identical")


def test_other_reviews_are_refused(command, out, npz, capsys):
    assert train(*command) == 0
    capsys.readouterr()
    contents = npz.read_bytes()
    npz.with_name("imdb_word_index.json").write_text('{"good": 1}')
    assert train("--resume", out) == 2
    assert f"is no longer what the checkpoint in {out / 'last'} was trained on" in one_line(capsys)
    assert npz.read_bytes() == contents


@pytest.mark.parametrize(
    "epochs, message", [(0, "there is no checkpoint yet"), (1, "resume from the last checkpoint with --resume")]
)
def test_ctrl_c_says_how_to_resume(epochs, message, command, capsys, monkeypatch):
    feed = Trainer._fed

    def interrupted(self, *args):
        if self.progress.epochs == epochs:
            raise KeyboardInterrupt
        return feed(self, *args)

    monkeypatch.setattr(Trainer, "_fed", interrupted)
    assert train(*command) == 130
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_in_the_current_folder_cannot_be_kept_aside(command, out, monkeypatch, capsys):
    assert train(*command, "--epochs", "1") == 0
    capsys.readouterr()
    monkeypatch.chdir(out)
    assert train(*command[: command.index("--out")], "--out", ".", "--fresh") == 2
    assert one_line(capsys).startswith("rnndrop train: --out: expected a folder by its name")
