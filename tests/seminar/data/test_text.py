"""Words as Keras' tokeniser finds them, and contractions that are split."""

import pytest

from rnndrop_cuda.seminar.data.reviews import load_reviews
from rnndrop_cuda.seminar.data.text import tokenize


def test_tokenize_is_keras():
    text = "It's GOOD!<br /><br />a\ttab\nand,commas\x85next"
    assert tokenize(text) == ["it's", "good", "br", "br", "a", "tab", "and", "commas\x85next"]
    assert tokenize(" .,! ") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't, can't & won't", "i do n't ca n't wo n't"),
        ("It's what they're saying we've said I'd say I'll", "it 's what they 're saying we 've said i 'd say i 'll"),
        ("I'm shouldn't've", "i 'm should n't 've"),
        ("Don\u2019t, don\x92t, don\u00b4t", "do n't do n't do n't"),
        ("'Quoted' the dogs' 'n' ''", "quoted the dogs n"),
        ("the film 's good , does n't it", "the film 's good does n't it"),
        ("O'Brien rock'n'roll y'all", "o'brien rock'n'roll y'all"),
        ("one\x85two\x96three\u2026four\u2014five \u201csix\u201d", "one two three four five six"),
    ],
)
def test_contractions_are_split_as_the_vectors_tokeniser_did(text, words):
    assert tokenize(text, "split") == words.split()


def test_contractions_are_kept_unless_asked_for(npz):
    assert tokenize("don't 'x'") == ["don't", "'x'"]
    for call in (lambda: tokenize("x", "cut"), lambda: load_reviews("rotten-tomatoes", contractions="cut")):
        with pytest.raises(ValueError, match='contractions: expected "keep" or "split", got \'cut\''):
            call()
    with pytest.raises(ValueError, match='contractions: expected "keep" for .*ids instead of text'):
        load_reviews(str(npz), contractions="split", sha256=None)
    assert "contractions" not in load_reviews("rotten-tomatoes").facts
    assert load_reviews("rotten-tomatoes", contractions="split").facts["contractions"] == "split"
