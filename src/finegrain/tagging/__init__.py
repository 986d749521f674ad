"""Tagging text: corpora, tag schemes, scores, and the word segmenter."""

from finegrain.crf.by_class import ClassScore, SpanScore
from finegrain.crf.schemes import SpanScheme, TagScheme
from finegrain.demo.manual import ManualCorpus, manual_corpus, manual_sentences
from finegrain.tagger.segmenter import Segmenter
from finegrain.tagger.tagger import Analysis, Tagger
from finegrain.tagger.training import TrainingDivergedError
from finegrain.tagging import corpus as _corpus
from finegrain.tagging.columns import read_columns, write_columns
from finegrain.tagging.conversion import convert_tags, find_scheme, spans_of
from finegrain.tagging.corpus import read_segmented, write_segmented
from finegrain.tagging.entities import BILOU, BIO, BIOES, BMESO, IOB1, IOE1, IOE2
from finegrain.tagging.files import CorpusError
from finegrain.tagging.label_scores import Confusion, LabelScore, score_labels
from finegrain.tagging.pieces import cut_sentences
from finegrain.tagging.prefixed import PrefixScheme, Span
from finegrain.tagging.schemes import BMES
from finegrain.tagging.scores import SegmentationScore, score
from finegrain.tagging.sentences import as_sentences
from finegrain.tagging.span_scores import score_spans

__all__ = [
    "BILOU",
    "BIO",
    "BIOES",
    "BMES",
    "BMESO",
    "IOB1",
    "IOE1",
    "IOE2",
    "Analysis",
    "ClassScore",
    "Confusion",
    "CorpusError",
    "LabelScore",
    "ManualCorpus",
    "PrefixScheme",
    "SegmentationScore",
    "Segmenter",
    "Span",
    "SpanScheme",
    "SpanScore",
    "TagScheme",
    "Tagger",
    "TrainingDivergedError",
    "as_sentences",
    "convert_tags",
    "cut_sentences",
    "find_scheme",
    "manual_corpus",
    "manual_sentences",
    "read_columns",
    "read_segmented",
    "score",
    "score_labels",
    "score_spans",
    "spans_of",
    "write_columns",
    "write_segmented",
]


def __getattr__(name: str) -> object:
    if name == "vocabulary":  # warns when it is called
        return _corpus.vocabulary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
