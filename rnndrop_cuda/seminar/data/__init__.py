"""Where the seminar's input comes from: reviews as word ids, and pretrained vectors for their words."""

from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES, held_out_texts
from rnndrop_cuda.seminar.data.download import check_hash, file_hash
from rnndrop_cuda.seminar.data.ids import IntArray, Rows
from rnndrop_cuda.seminar.data.npz import IMDB_SHA256, WORD_INDEX
from rnndrop_cuda.seminar.data.reviews import DATA_SEED, Reviews, Split, load_matrix_imdb, load_reviews
from rnndrop_cuda.seminar.data.text import (
    PADDING,
    SPECIAL_WORDS,
    START,
    UNKNOWN,
    find_words,
    ids_of_words,
    tokenize,
)

__all__ = [
    "CSV_SOURCES",
    "DATA_SEED",
    "IMDB_SHA256",
    "PADDING",
    "SPECIAL_WORDS",
    "START",
    "UNKNOWN",
    "WORD_INDEX",
    "IntArray",
    "Reviews",
    "Rows",
    "Split",
    "check_hash",
    "file_hash",
    "find_words",
    "held_out_texts",
    "ids_of_words",
    "load_matrix_imdb",
    "load_reviews",
    "tokenize",
]
