"""Tagging text: corpora, tag schemes, the word segmenter and its score."""

from finegrain.crf.schemes import SpanScheme, TagScheme
from finegrain.demo.manual import ManualCorpus, manual_corpus, manual_sentences
from finegrain.tagger.segmenter import Segmenter
from finegrain.tagger.training import TrainingDivergedError
from finegrain.tagging import corpus as _corpus
from finegrain.tagging.corpus import (
    CorpusError,
    read_columns,
    read_segmented,
    write_segmented,
)
from finegrain.tagging.entities import BIO, BIOES, Span
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import SegmentationScore, score

__all__ = [
    "BIO",
    "BIOES",
    "BMES",
    "CorpusError",
    "ManualCorpus",
    "SegmentationScore",
    "Segmenter",
    "Span",
    "SpanScheme",
    "TagScheme",
    "TrainingDivergedError",
    "manual_corpus",
    "manual_sentences",
    "read_columns",
    "read_segmented",
    "score",
    "write_segmented",
]


def __getattr__(name: str) -> object:
    if name == "vocabulary":  # warns when it is called
        return _corpus.vocabulary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
