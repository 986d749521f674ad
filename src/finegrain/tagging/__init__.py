"""Tagging text: corpora, tag schemes, the word segmenter and its score."""

from finegrain.tagging.corpus import (
    CorpusError,
    read_columns,
    read_segmented,
    vocabulary,
    write_segmented,
)
from finegrain.tagging.entities import BIO, BIOES, Span
from finegrain.tagging.manual import ManualCorpus, manual_corpus, manual_sentences
from finegrain.tagging.schemes import BMES, TagScheme
from finegrain.tagging.scoring import SegmentationScore, score
from finegrain.tagging.segmenter import Segmenter
from finegrain.tagging.training import TrainingDivergedError

__all__ = [
    "BIO",
    "BIOES",
    "BMES",
    "CorpusError",
    "ManualCorpus",
    "SegmentationScore",
    "Segmenter",
    "Span",
    "TagScheme",
    "TrainingDivergedError",
    "manual_corpus",
    "manual_sentences",
    "read_columns",
    "read_segmented",
    "score",
    "vocabulary",
    "write_segmented",
]
