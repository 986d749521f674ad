"""LinearChain: a distribution over tag sequences."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.crf import recursions
from finegrain.crf.potentials import unpack

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
        emissions = ops.convert_to_tensor(emissions)
        dtype = _computing_dtype(emissions)
        if len(emissions.shape) != 3:
            raise ValueError(
                "`emissions` should have shape (batch, time, tags). "
                f"Received: emissions.shape={tuple(emissions.shape)}"
            )
        # Kept as a number: TensorFlow forgets static sizes along the way.
        self._num_tags = num_tags = _static_num_tags(emissions)
        transitions = ops.cast(ops.convert_to_tensor(transitions), dtype)
        _check_transitions(transitions, emissions)
        self.start = _boundary(start, "start", num_tags, dtype)
        self.end = _boundary(end, "end", num_tags, dtype)
        emissions = ops.cast(emissions, dtype)
        self._has_gaps = mask is not None
        if mask is None:
            valid = ops.ones_like(emissions[:, :, 0], dtype="bool")
        else:
            valid = _checked_mask(mask, emissions)
            # A `where` also keeps the gradient of what stands at masked positions at zero.
            emissions = ops.where(valid[:, :, None], emissions, ops.zeros_like(emissions))
        self._no_time = emissions.shape[1] == 0
        if self._no_time:  # Loops and maxima need a position, be it a masked one.
            emissions, valid = _one_step(emissions), _one_step(valid)
        self.emissions, self.transitions, self.mask = emissions, transitions, valid
        # Place of each position in its chain, counted from 1; (B, T).
        self._place = ops.cumsum(ops.cast(valid, "int32"), axis=1)
        if self._has_gaps and not self._no_time and len(transitions.shape) == 4:
            # Only steps between two positions of the chain exist: none leads out of padding.
            linked = ops.logical_and(valid, self._place > 1)[:, 1:, None, None]
            self.transitions = ops.where(linked, transitions, ops.zeros_like(transitions))

    @classmethod
    def from_potentials(cls, potentials: Tensor) -> LinearChain:
        """The chain that a `finegrain.layers.CRF` layer put out.

        Args:
            potentials: (batch, time + tags + 2, tags + 1), the layer's output or what
                `model.predict` makes of it.

        Returns:
            The chain over (batch, time) positions.
        """
        return cls(**unpack(potentials)._asdict())

    def score(self, tags: Tensor) -> Tensor:
        """The score s(y) of tag sequences.

        Args:
            tags: (batch, time) integers in [0, tags); anything at masked positions.

        Returns:
            (batch,) scores; −inf if a transition is forbidden, 0 for an empty sequence.
        """
        return self._score(self.emissions, self._checked_tags(tags))

    def log_partition(self) -> Tensor:
        """The log of the sum of exp(s(y)) over all tag sequences: (batch,), 0 for an empty one."""
        return recursions.log_partition(self._steps(self.emissions), self.start, self.end)

    def log_prob(self, tags: Tensor) -> Tensor:
        """The log-probability of tag sequences.

        Args:
            tags: (batch, time) integers in [0, tags); anything at masked positions.

        Returns:
            (batch,) log-probabilities; −inf for an impossible sequence.
        """
        # The same shift in both terms: their difference loses no digits to large scores.
        peak = ops.stop_gradient(ops.max(self.emissions, axis=2, keepdims=True))
        shifted = self.emissions - ops.where(ops.isfinite(peak), peak, ops.zeros_like(peak))
        score = self._score(shifted, self._checked_tags(tags))
        total = recursions.log_partition(self._steps(shifted), self.start, self.end)
        # A constant for an impossible sequence: what is −inf gets no gradient, and no −inf − −inf.
        impossible = ops.full_like(score, float("-inf"))
        return ops.where(score > float("-inf"), score - total, impossible)

    def mode(self) -> tuple[Tensor, Tensor]:
        """The most probable tag sequences (Viterbi).

        Returns:
            (tags, score): int32 tags (batch, time), −1 where masked, and their scores (batch,).
        """
        best = recursions.viterbi(self._steps(self.emissions), self.start, self.end)
        tags = ops.where(self.mask, ops.transpose(best), -1)
        score = self._score(self.emissions, tags)
        return (tags[:, :0] if self._no_time else tags), score

    def _score(self, emissions: Tensor, tags: Tensor) -> Tensor:
        here = ops.where(self.mask, tags, ops.zeros_like(tags))  # (B, T)
        pairs = self._before(here) * self._num_tags + here
        emission = ops.take_along_axis(emissions, here[:, :, None], axis=2)[:, :, 0]
        if len(self.transitions.shape) == 2:
            transition = ops.take(ops.reshape(self.transitions, (-1,)), pairs, axis=0)
        else:
            entering = _entering(self.transitions)
            by_pair = ops.reshape(entering, (*ops.shape(pairs), self._num_tags**2))
            transition = ops.take_along_axis(by_pair, pairs[:, :, None], axis=2)[:, :, 0]
        zeros = ops.zeros_like(emission)
        is_last = ops.logical_and(self.mask, self._place == self._place[:, -1:])
        linked = ops.logical_and(self.mask, self._place > 1)
        start = ops.where(self._is_first(), ops.take(self.start, here, axis=0), zeros)
        end = ops.where(is_last, ops.take(self.end, here, axis=0), zeros)
        return ops.sum(emission + ops.where(linked, transition, zeros) + start + end, axis=1)

    def _is_first(self) -> Tensor:
        return ops.logical_and(self.mask, self._place == 1)

    def _before(self, tags: Tensor) -> Tensor:
        """(B, T) the tag at the chain's previous position; any tag where there is none."""
        if not self._has_gaps:
            return ops.pad(tags, ((0, 0), (1, 0)))[:, :-1]
        batch, time = ops.shape(tags)
        rows = ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, time))
        columns = ops.maximum(self._place - 1, 0)
        cells = ops.reshape(ops.stack([rows, columns], axis=2), (-1, 2))
        # Masked positions add 0 to a cell, so each cell gets the tag of one position.
        closed_up = ops.scatter(cells, ops.reshape(tags, (-1,)), (batch, time))
        return ops.take_along_axis(closed_up, ops.maximum(self._place - 2, 0), axis=1)

    def _steps(self, emissions: Tensor) -> recursions.Steps:
        transitions = self.transitions
        if len(transitions.shape) == 4:
            transitions = ops.transpose(_entering(transitions), (1, 0, 2, 3))
        return recursions.Steps(
            num_tags=self._num_tags,
            emissions=ops.transpose(emissions, (1, 0, 2)),
            transitions=transitions,
            valid=ops.transpose(self.mask)[:, :, None],
            first=ops.transpose(self._is_first())[:, :, None],
        )

    def _checked_tags(self, tags: Tensor) -> Tensor:
        tags = ops.convert_to_tensor(tags)
        if "int" not in keras.backend.standardize_dtype(tags.dtype):
            raise TypeError(f"`tags` should be integers. Received: tags.dtype={tags.dtype}")
        if self._no_time:
            tags = _one_step(tags)
        check_tags_shape(tags, self.mask)
        return ops.cast(tags, "int32")


def decode(potentials: Tensor) -> Tensor:
    """The best tags for what a model with a CRF layer predicted.

    Args:
        potentials: (batch, time + tags + 2, tags + 1), the output of a `finegrain.layers.CRF`
            layer, as a tensor or as the array that `model.predict` returns.

    Returns:
        (batch, time) int32 tags, −1 where masked.

    Example:
    >>> import numpy as np, keras, finegrain as fg
    >>> layer = fg.layers.CRF(2, use_projection=False)
    >>> potentials = layer(np.array([[[0.0, 1.0], [2.0, 0.0]]], "float32"))
    >>> potentials.shape[1:] == (2 + 2 + 2, 2 + 1)
    True
    >>> print(keras.ops.convert_to_numpy(fg.crf.decode(potentials)))
    [[1 0]]
    """
    tags, _ = LinearChain.from_potentials(potentials).mode()
    return tags


def _static_num_tags(emissions: Tensor) -> int:
    num_tags = emissions.shape[-1]
    if not isinstance(num_tags, int) or num_tags < 1:
        raise ValueError(
            "`emissions` should have a known number of tags, at least 1, as their last size. "
            f"Received: emissions.shape={tuple(emissions.shape)}"
        )
    return num_tags


def _computing_dtype(emissions: Tensor) -> str:
    dtype = keras.backend.standardize_dtype(emissions.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(f"`emissions` should be floating point. Received: emissions.dtype={dtype}")
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _one_step(x: Tensor) -> Tensor:
    """(B, 1, ...) zeros for x (B, 0, ...)."""
    return ops.pad(x, [(0, 1) if axis == 1 else (0, 0) for axis in range(len(x.shape))])


def _entering(transitions: Tensor) -> Tensor:
    """(B, T, K, K): entry t enters position t; the first stands for nothing."""
    return ops.pad(transitions, ((0, 0), (1, 0), (0, 0), (0, 0)))


def _fits(shape: Any, expected: Any) -> bool:
    """Whether static shapes agree; an unknown or symbolic dimension agrees with any."""
    return len(shape) == len(expected) and not any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(shape, expected, strict=True)
    )


def check_tags_shape(tags: Tensor, mask: Tensor) -> None:
    """Raises unless `tags` have the (batch, time) shape of the mask, as far as both are known."""
    if not _fits(tags.shape, mask.shape):
        raise ValueError(
            f"`tags` should have shape (batch, time), here {tuple(mask.shape)}. "
            f"Received: tags.shape={tuple(tags.shape)}"
        )


def _check_transitions(transitions: Tensor, emissions: Tensor) -> None:
    batch, time, num_tags = emissions.shape
    steps = max(time - 1, 0) if isinstance(time, int) else None
    shared, per_step = (num_tags, num_tags), (batch, steps, num_tags, num_tags)
    if not _fits(transitions.shape, shared) and not _fits(transitions.shape, per_step):
        raise ValueError(
            "`transitions` should have shape (tags, tags) or (batch, time - 1, tags, tags), here "
            f"{shared} or {per_step}. Received: transitions.shape={tuple(transitions.shape)}"
        )


def _boundary(scores: Tensor | None, name: str, num_tags: int, dtype: str) -> Tensor:
    if scores is None:
        return ops.zeros((num_tags,), dtype=dtype)
    given = ops.cast(ops.convert_to_tensor(scores), dtype)
    if not _fits(given.shape, (num_tags,)):
        raise ValueError(
            f"`{name}` should have shape (tags,), here {(num_tags,)}. "
            f"Received: {name}.shape={tuple(given.shape)}"
        )
    return given


def _checked_mask(mask: Tensor, emissions: Tensor) -> Tensor:
    given = ops.convert_to_tensor(mask)
    if keras.backend.standardize_dtype(given.dtype) != "bool":
        raise TypeError(
            "`mask` should be boolean (compare numbers first, as in `lengths > 0`). "
            f"Received: mask.dtype={given.dtype}"
        )
    if not _fits(given.shape, emissions.shape[:2]):
        raise ValueError(
            "`mask` should have shape (batch, time), here "
            f"{tuple(emissions.shape[:2])}. Received: mask.shape={tuple(given.shape)}"
        )
    return given
