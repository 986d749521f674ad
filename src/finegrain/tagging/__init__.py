"""Tagging text: corpora, tag schemes, the word segmenter and its score."""

from finegrain.crf.schemes import SpanScheme, TagScheme
from finegrain.demo.manual import ManualCorpus, manual_corpus, manual_sentences
from finegrain.segmenter.segmenter import Segmenter
from finegrain.segmenter.training import TrainingDivergedError
from finegrain.tagging.corpus import (
    CorpusError,
    read_columns,
    read_segmented,
    vocabulary,
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
    "vocabulary",
    "write_segmented",
]
