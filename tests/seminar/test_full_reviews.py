"""The run on whole reviews: what it writes, that it can be repeated, and what it refuses."""

import json

import pytest

from rnndrop_cuda.seminar.commands import full_reviews

SMALL = ["--data", "rotten-tomatoes", "--maxlen", "15", "--n-hidden", "8", "--epochs", "2"]


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{word} {i}.5 1 -1\n" for i, word in enumerate(["the", "a", "n't", "film"])))
    return ["--vectors", str(path)]


def test_it_writes_its_settings_and_an_epoch_a_line_and_can_be_repeated(tmp_path, vectors, capsys):
    results = []
    for _ in range(2):
        out = tmp_path / "results" / "r.json"
        assert full_reviews.main([*SMALL, *vectors, "--validate", "500", "--out", str(out)]) == 0
        results.append(json.loads(out.read_text()))
    result, again = results
    last = result["epochs"][-1]
    assert f"epoch 2/2: train loss {last['train_loss']:.4f}" in capsys.readouterr().out
    assert result["scored on"] == "validation"
    assert (result["data"]["train reviews"], result["data"]["scored reviews"]) == (6824 - 500, 500)
    assert result["settings"]["maxlen"] == 15 and result["vectors"]["words found"] == 4
    assert last["train_loss"] < result["epochs"][0]["train_loss"]
    for epoch in (*result["epochs"], *again["epochs"]):
        assert epoch.pop("seconds") > 0
    assert again["epochs"] == result["epochs"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--validate", "6824"], "--validate must leave reviews to train on, got 6824"),
        (["--vectors", "absent"], "got 'absent'"),
        (["--out", "{}"], "Is a directory"),
        (["--out", "{}/a.txt/r.json"], "out must be a folder that can be written"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, vectors, capsys, args, message):
    out = [] if "--out" in args else ["--out", str(tmp_path / "r.json")]
    assert full_reviews.main([*SMALL, *vectors, *out, *(arg.format(tmp_path) for arg in args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("full_reviews: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("args", [["--epochs", "0"], ["--dropout", "1.5"], ["--learning-rate", "nan"], ["--clip", "0"]])
def test_numbers_out_of_range_are_refused(args, capsys):
    with pytest.raises(SystemExit, match="2"):
        full_reviews.main(args)
    assert f"argument {args[0]}: must be" in capsys.readouterr().err
