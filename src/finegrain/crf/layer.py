"""The CRF head: scores for each tag and for each pair of neighbouring tags."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from finegrain.crf.checks import checked_count
from finegrain.crf.constraints import Constraints
from finegrain.crf.potentials import pack

Tensor = Any

INITIALIZERS = ("kernel_initializer", "transitions_initializer", "boundaries_initializer")
REGULARIZERS = ("kernel_regularizer", "transitions_regularizer", "boundaries_regularizer")


@keras.saving.register_keras_serializable(package="finegrain")
class CRF(keras.layers.Layer):
    r"""A linear-chain CRF as the last layer of a tagger.

    For features $x_t$ the scores are $\text{emissions}_t = W x_t + b$, to which the layer adds
    `transitions` between neighbouring tags and scores of the first and the last tag. It puts
    all of them out in one tensor, the *potentials*, which `CRFNegativeLogLikelihood`,
    `ViterbiAccuracy`, `finegrain.crf.decode` and `LinearChain.from_potentials` understand.

    Transitions learn from few numbers what the encoder learns from many. Beside an encoder that
    is fine-tuned at a small rate they stay far below the emissions unless they learn faster:
    give them a `Rule` with a `learning_rate_multiplier`.

    Args:
        num_tags: Number of tags, at least 1.
        use_projection: Whether to map the inputs to `num_tags` scores by a weight matrix. If
            not, the inputs are the scores.
        use_transitions: Whether neighbouring tags depend on each other. If not, each position
            is a softmax of its own: the baseline of a CRF.
        use_boundaries: Whether the first and the last tag have scores of their own.
        constraints: Which tag may follow which: a tag scheme (such as `finegrain.tagging.BMES()`)
            or a boolean (tags, tags) matrix [from, to]. What is not allowed has probability 0 in
            the loss and in decoding. Defaults to none.
        kernel_initializer: Of the (features, tags) weight matrix.
        transitions_initializer: Of the (tags, tags) transitions.
        boundaries_initializer: Of the scores of the first and the last tag, (tags,) each.
        kernel_regularizer: Of the weight matrix. Defaults to none, as the others.
        transitions_regularizer: Of the transitions.
        boundaries_regularizer: Of the scores of the first tag, and of those of the last.
        **kwargs: Keras's own, such as `name` and `dtype`.

    Input shape: (batch, time, features) with an optional boolean mask (batch, time), such as
    `Embedding(mask_zero=True)` hands on. Any mask will do.

    Output shape: (batch, time + tags + 2, tags + 1), float32 also under mixed precision.

    Raises:
        ValueError: for a number of tags below 1, an input of another rank, or, without
            projection, of another width than `num_tags`.

    Example:
    >>> import keras, numpy as np, finegrain as fg
    >>> x = keras.Input((None,), dtype="int32")
    >>> h = keras.layers.Embedding(10, 8, mask_zero=True)(x)
    >>> model = keras.Model(x, fg.layers.CRF(4, name="crf")(h))
    >>> [weight.path for weight in model.get_layer("crf").weights]
    ['crf/kernel', 'crf/bias', 'crf/transitions', 'crf/start', 'crf/end']
    >>> potentials = model.predict(np.array([[3, 5, 0], [2, 4, 1]]), verbose=0)
    >>> tags = keras.ops.convert_to_numpy(fg.crf.decode(potentials))
    >>> tags.shape, int(tags[0, 2])
    ((2, 3), -1)

    References:
        Su Jianlin, The learning rate of your CRF layer may be too small, 2020,
        https://kexue.fm/archives/7196
    """

    def __init__(
        self,
        num_tags: int,
        *,
        use_projection: bool = True,
        use_transitions: bool = True,
        use_boundaries: bool = True,
        constraints: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        transitions_initializer: Any = "zeros",
        boundaries_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        transitions_regularizer: Any = None,
        boundaries_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_tags = checked_count(num_tags, "num_tags")
        self.use_projection = use_projection
        self.use_transitions = use_transitions
        self.use_boundaries = use_boundaries
        self.constraints = Constraints.of(constraints, num_tags)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.transitions_initializer = keras.initializers.get(transitions_initializer)
        self.boundaries_initializer = keras.initializers.get(boundaries_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.transitions_regularizer = keras.regularizers.get(transitions_regularizer)
        self.boundaries_regularizer = keras.regularizers.get(boundaries_regularizer)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights for inputs of shape (batch, time, features)."""
        width = _checked_width(input_shape)
        if self.use_projection:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(width, self.num_tags),
                initializer=self.kernel_initializer,
                regularizer=self.kernel_regularizer,
            )
            self.bias = self.add_weight(name="bias", shape=(self.num_tags,), initializer="zeros")
        elif width != self.num_tags:
            raise ValueError(
                f"With use_projection=False the inputs are the scores of {self.num_tags} tags. "
                f"Received: input_shape={input_shape}"
            )
        # Sums along the chain need every digit: no autocast to half precision.
        if self.use_transitions:
            self.transitions = self.add_weight(
                name="transitions",
                shape=(self.num_tags, self.num_tags),
                initializer=self.transitions_initializer,
                regularizer=self.transitions_regularizer,
                autocast=False,
            )
        if self.use_boundaries:
            for name in ("start", "end"):
                weight = self.add_weight(
                    name=name,
                    shape=(self.num_tags,),
                    initializer=self.boundaries_initializer,
                    regularizer=self.boundaries_regularizer,
                    autocast=False,
                )
                setattr(self, name, weight)

    @property
    def potentials_dtype(self) -> str:
        """The dtype of the output: float32 at least."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn features into potentials.

        Args:
            inputs: (batch, time, features), a floating dtype; with `use_projection=False` the
                features are the scores of the tags.
            mask: (batch, time) boolean, true at positions that exist; by default all do.

        Returns:
            (batch, time + tags + 2, tags + 1) potentials, in float32 at least.
        """
        if mask is None:
            valid = ops.ones_like(inputs[:, :, 0], dtype="bool")
        else:
            # What stands at masked positions may be NaN: it must not reach the projection.
            valid = ops.cast(mask, "bool")
            inputs = ops.where(valid[:, :, None], inputs, ops.zeros_like(inputs))
        scores = ops.matmul(inputs, self.kernel) + self.bias if self.use_projection else inputs
        scores = ops.cast(scores, self.potentials_dtype)
        return pack(scores, *self._chain_scores(scores.dtype), valid)

    def _chain_scores(self, dtype: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return constrained transitions (tags, tags), start (tags,) and end (tags,)."""
        zeros = ops.zeros((self.num_tags,), dtype=dtype)
        scores = (
            self.transitions if self.use_transitions else ops.zeros((self.num_tags,) * 2, dtype),
            self.start if self.use_boundaries else zeros,
            self.end if self.use_boundaries else zeros,
        )
        return scores if self.constraints is None else self.constraints.apply(*scores)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> None:
        """Return None: the potentials carry the mask themselves."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Compute the output shape, (batch, time + tags + 2, tags + 1)."""
        _checked_width(input_shape)
        batch, time = input_shape[:2]
        rows = None if time is None else time + self.num_tags + 2
        return (batch, rows, self.num_tags + 1)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> keras.KerasTensor:
        """Compute the shape and the dtype of the potentials."""
        shape = self.compute_output_shape(tuple(inputs.shape))
        return keras.KerasTensor(shape, dtype=self.potentials_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return super().get_config() | {
            "num_tags": self.num_tags,
            "use_projection": self.use_projection,
            "use_transitions": self.use_transitions,
            "use_boundaries": self.use_boundaries,
            "constraints": None if self.constraints is None else self.constraints.get_config(),
            **{name: keras.initializers.serialize(getattr(self, name)) for name in INITIALIZERS},
            **{name: keras.regularizers.serialize(getattr(self, name)) for name in REGULARIZERS},
        }


def _checked_width(input_shape: Any) -> int:
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise ValueError(
            "A CRF layer takes inputs of shape (batch, time, features) with a known number of "
            f"features. Received: input_shape={tuple(input_shape)}"
        )
    return input_shape[-1]
