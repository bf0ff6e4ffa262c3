"""`rnndrop vectors`: how many of the reviews' words have a pretrained vector, and which frequent ones have none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rnndrop_cuda.seminar.commands import options
from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line
from rnndrop_cuda.seminar.data.csv_reviews import CSV_SOURCES
from rnndrop_cuda.seminar.data.npz import IMDB_SHA256
from rnndrop_cuda.seminar.data.reviews import load_reviews
from rnndrop_cuda.seminar.data.text import CONTRACTIONS, SPECIAL_WORDS
from rnndrop_cuda.seminar.data.vectors import GLOVE, load_vectors
from rnndrop_cuda.seminar.settings import DataSettings

MISSING_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `rnndrop vectors argv...`; returns 0, or 2 on wrong input."""
    parser = _parser()
    args = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    contractions = args.contractions or ("split" if args.data in CSV_SOURCES else "keep")
    sha256 = None if args.unverified_data else IMDB_SHA256
    try:
        reviews = load_reviews(args.data, args.vocab_size, None, sha256=sha256, contractions=contractions)
        vectors = load_vectors(args.source, reviews.words, args.n_emb)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        flags = {**flags_of(parser), "num_words": "--vocab-size", "vectors": "SOURCE"}
        return fail("vectors", one_line(error, flags))
    for name, fact in vectors.facts.items():
        print(f"{name}: {fact}")
    print(f"{args.data}, contractions {contractions}: {vectors.coverage(reviews.X_train)}")
    # Ids are ranks: the first without a vector are the most frequent.
    missing = [reviews.words[i] for i in (~vectors.found).nonzero()[:, 0].tolist() if i >= len(SPECIAL_WORDS)]
    print("most frequent words without a vector: " + (" ".join(missing[:MISSING_SHOWN]) or "none"))
    return 0


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="rnndrop vectors",
        description="Shows how many of the reviews' words have a pretrained vector, and the most frequent ones that "
        "have none.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        default=GLOVE,
        help=f"{GLOVE}, the vectors that come with the extra `vectors` (default), or a file: GloVe text, word2vec text "
        "or binary, each optionally as .gz, or an .npy with its words, one a line, in a .txt of the same name",
    )
    parser.add_argument(
        "--data",
        type=str,
        metavar="REVIEWS",
        default=DataSettings.data,
        help=f"{', '.join(CSV_SOURCES)}, imdb, or the path of an npz (default: {DataSettings.data})",
    )
    options.add_unverified_data(parser)
    parser.add_argument(
        "--vocab-size",
        type=options.vocab_size,
        default=DataSettings.vocab_size,
        metavar="N",
        help=f"ids of the vocabulary, special words included (default: {DataSettings.vocab_size})",
    )
    parser.add_argument(
        "--n-emb",
        type=options.positive,
        metavar="N",
        help="numbers that each vector is expected to have (default: any)",
    )
    parser.add_argument(
        "--contractions",
        choices=CONTRACTIONS,
        help='read "don\'t" as one word or as "do n\'t" (default: split where the reviews are text, else keep)',
    )
    return parser
