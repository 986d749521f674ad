"""Linear-chain conditional random fields: distributions over tag sequences."""

from finegrain.crf.decoding import decode
from finegrain.crf.labels import allowed_sequences
from finegrain.crf.linear_chain import LinearChain

__all__ = ["LinearChain", "allowed_sequences", "decode"]
