"""LinearChain: a distribution over tag sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from finegrain._backend import backend
from finegrain.crf.chain import Chain
from finegrain.crf.checks import (
    checked_allowed,
    checked_chain,
    checked_count,
    checked_tags,
    refuse_tags_outside,
)
from finegrain.crf.k_best import k_best
from finegrain.crf.kernels import kernels, log_space
from finegrain.crf.potentials import unpack
from finegrain.crf.sampling import noise_of, sample
from finegrain.crf.score import difference

Tensor = Any


class LinearChain:
    r"""A linear-chain conditional random field: a distribution over the tag sequences $y$.

    $$p(y) = \frac{e^{s(y)}}{\sum_{y'} e^{s(y')}}, \qquad
      s(y) = \text{start}_{y_1} + \sum_t \text{emissions}_{t, y_t}
           + \sum_{t>1} \text{transitions}_{y_{t-1}, y_t} + \text{end}_{y_T}.$$

    Positions outside the mask do not exist: the chain links the positions before and after
    them, and whatever stands there (NaN and -100 included) never matters. A forbidden
    transition is −inf.

    Args:
        emissions: (batch, time, tags) float scores. float16 and bfloat16 are computed in
            float32, wider types in themselves.
        transitions: (tags, tags) scores as [from, to]; or (batch, time − 1, tags, tags), where
            entry t leads into position t + 1.
        start: (tags,) scores of the first tag. Defaults to zeros.
        end: (tags,) scores of the last tag. Defaults to zeros.
        mask: (batch, time) boolean, true where the position belongs to the sequence: padding on
            either side, holes and empty rows are all allowed. Defaults to all true.

    Raises:
        TypeError: if the mask is not boolean or the emissions are not floating point.
        ValueError: if shapes do not fit together.

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from finegrain.crf import LinearChain
    >>> emissions = np.array([[[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]], "float32")
    >>> transitions = np.array([[0.5, 0.0], [0.0, -np.inf]], "float32")
    >>> chain = LinearChain(emissions, transitions, mask=np.array([[True, True, False]]))
    >>> tags, score = chain.mode()
    >>> print(ops.convert_to_numpy(tags), ops.convert_to_numpy(score))
    [[ 1  0 -1]] [3.]
    >>> print(ops.convert_to_numpy(chain.log_partition()).round(4))
    [3.5046]
    >>> log_prob = ops.convert_to_numpy(chain.log_prob(tags))
    >>> print(np.exp(log_prob).round(4))
    [0.6037]

    References:
        John Lafferty, Andrew McCallum, Fernando Pereira, Conditional Random Fields:
        Probabilistic Models for Segmenting and Labeling Sequence Data, 2001,
        https://repository.upenn.edu/handle/20.500.14332/6188
    """

    def __init__(
        self,
        emissions: Tensor,
        transitions: Tensor,
        *,
        start: Tensor | None = None,
        end: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self._chain = checked_chain(emissions, transitions, start, end, mask)
        self._shape = tuple(ops.convert_to_tensor(emissions).shape)  # (batch, time, tags)

    @classmethod
    def from_potentials(cls, potentials: Tensor) -> LinearChain:
        """Make the chain from the output of a `finegrain.layers.CRF` layer.

        Args:
            potentials: (batch, time + tags + 2, tags + 1), the layer's output or what
                `model.predict` makes of it.

        Returns:
            The chain over (batch, time) positions.
        """
        return cls(**unpack(potentials)._asdict())

    @property
    def mask(self) -> Tensor:
        """The positions that exist, (batch, time) boolean."""
        return self._in_time(self._chain.valid)

    def score(self, tags: Tensor) -> Tensor:
        """Compute the score s(y) of tag sequences.

        Args:
            tags: (batch, time) integers in [0, tags); anything at masked positions.

        Returns:
            (batch,) scores; −inf if a transition is forbidden, 0 for an empty sequence.

        Raises:
            TypeError: if tags are not integers.
            ValueError: if their shape is not that of the mask, or a tag is not in [0, tags). What
                is compiled cannot raise that: there the sequence gets NaN, with gradient 0.
        """
        return self._of_tags(_score, tags)

    def log_partition(self) -> Tensor:
        """Compute the log of the sum of exp(s(y)) over all tag sequences.

        Returns:
            (batch,): 0 for an empty chain, −inf where no sequence is possible.
        """
        return _log_partition(self._chain)

    def log_prob(self, tags: Tensor) -> Tensor:
        """Compute the log-probability of tag sequences.

        Args:
            tags: (batch, time) integers in [0, tags); anything at masked positions.

        Returns:
            (batch,) log-probabilities; −inf for an impossible sequence.

        Raises:
            TypeError: if tags are not integers.
            ValueError: if their shape is not that of the mask, or a tag is not in [0, tags). What
                is compiled cannot raise that: there the sequence gets NaN, with gradient 0.
        """
        return self._of_tags(_log_prob, tags)

    def log_prob_partial(self, allowed: Tensor) -> Tensor:
        """Compute the log-probability that every tag is one of those allowed, for partial labels.

        Args:
            allowed: (batch, time, tags) boolean, with one true tag where the label is known, all
                true where nothing is; anything at masked positions.

        Returns:
            (batch,) log-probabilities; −inf where no such sequence is possible.

        Raises:
            TypeError: if `allowed` is not boolean.
            ValueError: if its shape is not that of the emissions.

        References:
            Yuta Tsuboi et al., Training Conditional Random Fields Using Incomplete Annotations,
            2008, https://aclanthology.org/C08-1113/
        """
        allowed = checked_allowed(allowed, self._shape, self._chain)
        return _log_prob_partial(self._chain, allowed)

    def mode(self) -> tuple[Tensor, Tensor]:
        """Find the most probable tag sequences (Viterbi).

        Returns:
            (tags, score): int32 tags (batch, time), −1 where masked, and their scores (batch,).
        """
        tags, score = _mode(self._chain)
        return self._masked(tags), score

    def top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """Find the k most probable tag sequences, best first.

        Args:
            k: At least 1.

        Returns:
            (tags, scores): int32 tags (batch, k, time), −1 where masked, and scores (batch, k).
            The first is that of `mode()`, also where others are as good, and each k begins as a
            smaller one. Where fewer than k sequences are possible the remaining tags are −1, with
            scores −inf.

        Raises:
            ValueError: if k is not a positive integer.
        """
        tags, scores, offset = _top_k(self._chain, k=checked_count(k, "k"))
        tags = ops.where((scores > -np.inf)[:, :, None], tags, -1)
        tags = self._masked(tags, axis=1)
        return _mode_first(tags, self.mode()[0], scores), scores + offset[:, None]

    def marginals(self) -> Tensor:
        """Compute each tag's probability at each position: (batch, time, tags), 0 where masked."""
        return self._in_time(_marginals(self._chain))

    def pairwise_marginals(self) -> Tensor:
        """Compute the probability of each pair of neighbouring tags.

        Returns:
            (batch, time − 1, tags, tags) as [from, to]: entry t is of the valid position before
            t + 1 and of t + 1; 0 where there are no such two.
        """
        return _pairs(self._chain)[:, 1:]

    def entropy(self) -> Tensor:
        """Compute the entropy of the tag sequences in nats: (batch,), 0 for an empty chain."""
        return _entropy(self._chain)

    def sample(self, n: int = 1, seed: Any = None) -> Tensor:
        """Draw n independent tag sequences from the exact distribution.

        Args:
            n: How many.
            seed: An integer or a `keras.random.SeedGenerator`, as all of `keras.random` takes it.

        Returns:
            (n, batch, time) int32 tags, −1 where masked and where no sequence is possible.

        Raises:
            ValueError: if n is not a positive integer.
        """
        tags = _sample(self._chain, noise_of(self._chain, checked_count(n, "n"), seed))
        return self._masked(tags, axis=0)

    def _of_tags(self, function: Callable[[Chain, Tensor], Tensor], tags: Tensor) -> Tensor:
        """Apply a function to tags; in a compiled step, those outside [0, K) give NaN, gradient 0.

        A compiled step cannot refuse tags. PyTorch looks them up one by one and finds those outside
        by itself.
        """
        tags = checked_tags(tags, self._shape)
        if backend.CHECKS_INDICES:
            try:
                return function(self._chain, tags)
            except (IndexError, RuntimeError):
                refuse_tags_outside(tags, self._chain)
                raise
        outside = refuse_tags_outside(tags, self._chain)
        value = function(self._chain, tags)
        return value if outside is None else ops.where(outside, np.nan, value)

    def _masked(self, tags: Tensor, axis: int | None = None) -> Tensor:
        """Set tags to −1 where masked; `axis` is the one that they have besides (batch, time)."""
        valid = self._chain.valid
        valid = valid if axis is None else ops.expand_dims(valid, axis)
        tags = ops.where(valid, tags, ops.full_like(tags, -1))
        return tags[..., :0] if self._shape[1] == 0 else tags

    def _in_time(self, x: Tensor) -> Tensor:
        return x[:, :0] if self._shape[1] == 0 else x


_score = backend.compiled_once(kernels.score)
_log_prob = backend.compiled_once(kernels.log_prob)
_log_partition = backend.compiled_once(kernels.log_partition)
_marginals = backend.compiled_once(kernels.marginals)


@backend.compiled_once
def _mode(chain: Chain) -> tuple[Tensor, Tensor]:
    tags = kernels.best_tags(chain)
    return tags, kernels.score(chain, tags)


@partial(backend.compiled_once, static=("k",))
def _top_k(chain: Chain, k: int) -> tuple[Tensor, Tensor, Tensor]:
    shifted, offset = chain.shifted()
    return *k_best(shifted, k), offset


@backend.compiled_once
def _log_prob_partial(chain: Chain, allowed: Tensor) -> Tensor:
    shifted, _ = chain.shifted()
    scores = shifted.scores
    emissions = ops.where(allowed, scores.emissions, ops.full_like(scores.emissions, -np.inf))
    some = kernels.log_partition(Chain(scores._replace(emissions=emissions), shifted.mask))
    return difference(some, kernels.log_partition(shifted))


@backend.compiled_once
def _pairs(chain: Chain) -> Tensor:
    return log_space.pairs(chain.shifted()[0])


@backend.compiled_once
def _entropy(chain: Chain) -> Tensor:
    return log_space.entropy(chain.shifted()[0])


@backend.compiled_once
def _sample(chain: Chain, noise: Tensor) -> Tensor:
    return sample(chain.shifted()[0], noise)


def _mode_first(tags: Tensor, mode: Tensor, scores: Tensor) -> Tensor:
    """Put the mode before the other (batch, k, time) tags, which stay in their order.

    Of equally good sequences `mode` picks the one that its backend finds fastest. It may then be
    none of the k: the last of them, which is as good, makes room.
    """
    k = tags.shape[1]
    is_mode = ops.all(tags == mode[:, None], axis=2)  # (B, k)
    is_mode = ops.logical_and(is_mode, scores > -np.inf)
    place = ops.where(ops.any(is_mode, axis=1), ops.argmax(is_mode, axis=1), k - 1)[:, None]
    order = ops.arange(k, dtype=place.dtype)[None]  # (1, k)
    order = ops.where(order <= place, order - 1, order)  # One further on until the place.
    moved = ops.take_along_axis(tags, ops.maximum(order, 0)[:, :, None], axis=1)
    first = ops.where((scores[:, 0] > -np.inf)[:, None], mode, tags[:, 0])
    return ops.concatenate([first[:, None], moved[:, 1:]], axis=1)
