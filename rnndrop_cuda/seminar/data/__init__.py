"""Where the seminar's input comes from: reviews as word ids, and pretrained vectors for their words."""

from rnndrop_cuda.seminar.data.reviews import (
    CSV_SOURCES,
    WORD_INDEX,
    Reviews,
    find_words,
    held_out_texts,
    ids_of_words,
    load_matrix_imdb,
    load_reviews,
    tokenize,
)

__all__ = [
    "CSV_SOURCES",
    "WORD_INDEX",
    "Reviews",
    "find_words",
    "held_out_texts",
    "ids_of_words",
    "load_matrix_imdb",
    "load_reviews",
    "tokenize",
]
