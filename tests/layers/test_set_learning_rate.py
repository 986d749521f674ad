"""SetLearningRate: the trajectories that it promises, and that it is otherwise not noticed."""

import inspect
import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import drawn
import finegrain as fg
from covering import chosen
from finegrain.layers import SetLearningRate

numpy = ops.convert_to_numpy
random = drawn.generator(0)
X = random.normal(size=(32, 4)).astype("float32")
Y = random.normal(size=(32, 1)).astype("float32")
WORDS = random.integers(1, 10, size=(16, 5))
LABELS = 4 * random.normal(size=(16, 1)).astype("float32")


def wrapped(layer, multiplier=16.0, adaptive=False, **kwargs):
    return SetLearningRate(layer, multiplier, adaptive, **kwargs)


def plain(layer):
    return layer


def fit(model, optimizer, x=X, y=Y, epochs=1, **kwargs):
    model.compile(optimizer, "mse", **kwargs)
    history = model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def perceptron(wrap=plain):
    drawn.seed_keras(1)
    inputs = keras.Input((4,))
    hidden = wrap(layers.Dense(8, activation="tanh", name="enc"))(inputs)
    return keras.Model(inputs, layers.Dense(1, name="head")(hidden))


def weights_of(model):
    """The weights that the model computes with, layer by layer."""
    return [
        weight
        for layer in model.layers
        for weight in getattr(layer, "effective_weights", layer.get_weights)()
    ]


def distance(ours, theirs):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True))


class Recorder(layers.Layer):
    """Adds losses and counts its calls, from within `call`."""

    def build(self, input_shape):
        self.gain = self.add_weight(name="gain", shape=(input_shape[-1],), initializer="ones")
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.calls.assign_add(1.0)
            self.calls.assign_add(1.0)
        self.add_loss(100.0 * ops.mean(self.gain))
        return inputs * self.gain


@keras.saving.register_keras_serializable("tests")
class Tower(keras.Model):
    """A subclassed model that has no weights before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6, activation="tanh")
        self.second = layers.Dense(2)

    def call(self, inputs):
        return self.second(self.first(inputs))


@keras.saving.register_keras_serializable("tests")
class Owner(keras.Model):
    """A subclassed model that makes the wrapper itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower = wrapped(Tower())
        self.head = layers.Dense(1)

    def call(self, inputs):
        return self.head(self.tower(inputs))


def nested():
    inputs = keras.Input((4,))
    hidden = layers.Dropout(0.2, seed=drawn.seed(3))(layers.Dense(6)(inputs))
    return keras.Model(inputs, layers.BatchNormalization()(hidden))


# Each takes (batch, 4) or is at least fed so by `into`.
KINDS = {
    "dense": lambda: layers.Dense(3, activation="relu"),
    "batch normalization": layers.BatchNormalization,
    "layer normalization": layers.LayerNormalization,
    "dropout": lambda: layers.Dropout(0.3, seed=drawn.seed(5)),
    "functional model": nested,
    "subclassed model": Tower,
    "layer with losses": Recorder,
}
TEXT_KINDS = {
    "embedding": (lambda: layers.Embedding(10, 4, mask_zero=True), "embed"),
    "lstm": (lambda: layers.LSTM(4, dropout=0.1, seed=drawn.seed(5)), "encode"),
    "attention": (lambda: layers.MultiHeadAttention(2, 3), "attend"),
}


def vector_model(make, wrap):
    drawn.seed_keras(2)
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(1, name="head")(wrap(make())(inputs)))


def text_model(make, place, wrap):
    drawn.seed_keras(2)
    words = keras.Input((None,), dtype="int32")
    embed = layers.Embedding(10, 4, mask_zero=True)
    embed = wrap(make()) if place == "embed" else embed
    hidden = embed(words)
    if place == "attend":
        hidden = wrap(make())(hidden, hidden, use_causal_mask=True)
    encode = wrap(make()) if place == "encode" else layers.GlobalAveragePooling1D()
    return keras.Model(words, layers.Dense(1, name="head")(encode(hidden)))


def models(kind):
    """For each wrapping a model of this kind, and data for it."""
    if kind in KINDS:
        return lambda wrap: vector_model(KINDS[kind], wrap), X, Y
    return lambda wrap: text_model(*TEXT_KINDS[kind], wrap), WORDS, LABELS


every_kind = pytest.mark.parametrize(
    "kind",
    chosen([*KINDS, *TEXT_KINDS], ["batch normalization", "dropout", "layer with losses", "lstm"]),
)


# --- How fast a layer learns ---


@pytest.mark.parametrize(
    ("options", "multiplier"),
    [
        pytest.param({}, 3.0, marks=pytest.mark.full),
        ({"momentum": 0.9}, 16.0),
        pytest.param({"momentum": 0.9, "nesterov": True}, 3.0, marks=pytest.mark.full),
    ],
    ids=["sgd", "momentum", "nesterov"],
)
def test_gradient_descent_is_per_weight(options, multiplier):
    """λ = √multiplier moves θ as PerWeight's rule does, where the base rate alone is far off.

    With λ a power of two nothing is rounded on the way.
    """
    assert_trajectories(
        lambda: optimizers.SGD(1e-2, **options),
        multiplier,
        adaptive=False,
        atol=1e-7 if multiplier == 16.0 else 2e-6,
        effect=2e-2,
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("make", "multiplier", "atol"),
    [
        (lambda: optimizers.Adam(1e-3, epsilon=1e-12), 3.0, 1e-5),
        (lambda: optimizers.Lion(1e-3), 4.0, 1e-6),
        (lambda: optimizers.RMSprop(1e-3, epsilon=1e-12), 3.0, 1e-4),
    ],
    ids=["adam", "lion", "rmsprop"],
)
def test_adaptive_optimizers_are_per_weight(make, multiplier, atol):
    """λ = multiplier moves θ as PerWeight's rule does, up to the optimizer's epsilon."""
    assert_trajectories(make, multiplier, adaptive=True, atol=atol, effect=5e-3)


def assert_trajectories(make, multiplier, *, adaptive, atol, effect):
    ours = perceptron(lambda layer: wrapped(layer, multiplier, adaptive))
    theirs, other = perceptron(), perceptron()
    rule = fg.Rule("enc", learning_rate_multiplier=multiplier)
    losses = [
        fit(ours, make(), epochs=2),
        fit(theirs, fg.PerWeight(make(), [rule]), epochs=2),
    ]
    fit(other, make(), epochs=2)
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert distance(weights_of(ours), weights_of(theirs)) < atol
    assert distance(weights_of(other), weights_of(theirs)) > effect


@pytest.mark.one_backend
def test_adaptive_says_what_the_scale_is():
    """λ is the multiplier or its square root."""
    assert wrapped(layers.Dense(1), 9.0, adaptive=True).scale == 9.0
    assert wrapped(layers.Dense(1), 9.0, adaptive=False).scale == 3.0
    layer = wrapped(layers.Dense(1), np.float32(0.25), adaptive=np.bool_(False))
    assert (layer.scale, layer.multiplier, layer.adaptive) == (0.5, 0.25, False)


def test_wrapping_again_multiplies():
    """2 around 8 is 16, also in regularizers and constraints."""
    make = lambda: layers.Dense(3, kernel_regularizer="l2", kernel_constraint="unit_norm")  # noqa: E731
    twice = vector_model(make, lambda layer: wrapped(wrapped(layer, 4.0), 16.0))
    once = vector_model(make, lambda layer: wrapped(layer, 64.0))
    for ours, theirs in zip(twice.get_weights(), once.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert fit(twice, optimizers.SGD(1e-3)) == pytest.approx(fit(once, optimizers.SGD(1e-3)))
    for ours, theirs in zip(twice.get_weights(), once.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# --- That all else stays as it was ---


@pytest.mark.full
@every_kind
def test_trains_as_per_weight_does(kind):
    """Outputs, losses, weights, statistics and seeds are those of the layer alone, faster."""
    build, x, y = models(kind)
    ours, theirs = build(wrapped), build(plain)
    target = next(layer for layer in ours.layers if isinstance(layer, SetLearningRate))
    same = theirs.layers[ours.layers.index(target)]
    before = theirs.get_weights()
    rules = [fg.Rule(same, learning_rate_multiplier=16.0)] if same.trainable_weights else []
    losses = [
        fit(ours, optimizers.SGD(1e-2), x, y),
        fit(theirs, fg.PerWeight(optimizers.SGD(1e-2), rules), x, y),
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert distance(theirs.get_weights(), before) > 3e-3
    for own, other in zip(target.effective_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    for own, other in zip(
        target.non_trainable_variables, same.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(numpy(own), numpy(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", chosen(["functional model", "subclassed model", "lstm"], ["functional model"])
)
def test_saves_loads_and_resumes(kind, tmp_path):
    """A model loads in safe mode and goes on to the last bit; nothing is divided twice."""
    build, x, y = models(kind)
    model = build(wrapped)
    fit(model, optimizers.Adam(1e-3), x, y)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    for ours, theirs in zip(
        again.non_trainable_variables, model.non_trainable_variables, strict=True
    ):
        ours.assign(numpy(theirs))  # Keras does not save the seeds of dropout
    for each in (model, again):
        each.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@every_kind
def test_wraps_a_built_layer_without_a_trace_in_outputs(kind):
    """What was trained before is kept when it is wrapped afterwards."""
    build, x, _ = models(kind)
    keep = []
    build(lambda layer: keep.append(layer) or layer)
    layer = keep[0]
    inputs = [np.asarray(x, layer.input_dtype if kind in KINDS else "int32")]
    if kind in ("lstm", "attention"):
        inputs = [random.normal(size=(16, 5, 4)).astype("float32")]
        inputs *= 2 if kind == "attention" else 1
    before, weights = numpy(layer(*inputs)), layer.get_weights()
    count = len(layer.trainable_weights)
    wrapper = wrapped(layer, 9.0)
    np.testing.assert_allclose(numpy(wrapper(*inputs)), before, rtol=1e-5, atol=1e-6)
    assert distance([*wrapper.effective_weights(), X], [*weights, X]) < 1e-6
    assert [weight.shape for weight in wrapper.get_weights()] == [w.shape for w in weights]
    stored = wrapper.get_weights()
    for phi, theta in list(zip(stored, weights, strict=True))[:count]:
        if kind not in ("functional model", "batch normalization", "layer with losses"):
            np.testing.assert_allclose(phi * 3, theta, rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "make", [Owner, lambda: keras.Sequential([wrapped(Tower()), layers.Dense(1)])]
)
def test_weights_that_training_creates(make, tmp_path):
    """Weights that first come to be while `fit` traces the model start at θ, and reload as φ."""
    drawn.seed_keras(3)
    model = make()
    fit(model, optimizers.Adam(0.0))
    wrapper = model.layers[0]
    bound = np.sqrt(6 / (4 + 6))
    kernel = wrapper.effective_weights()[0]
    assert 0.6 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(wrapper.get_weights()[0] * 4, kernel)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def test_one_wrapper_built_in_three_ways():
    """Whether built by shape, by a call, or before: the same φ."""
    stored = []
    for way in ("shape", "call", "before"):
        layer = layers.Dense(
            3, kernel_initializer=keras.initializers.GlorotUniform(seed=drawn.seed(1))
        )
        if way == "before":
            layer.build((None, 4))
        wrapper = wrapped(layer)
        if way == "shape":
            wrapper.build((None, 4))
        elif way == "call":
            wrapper(X)
        assert wrapper.built
        wrapper(X)
        stored.append(wrapper.get_weights()[0])
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(stored[0], stored[2])


# --- Losses, regularizers, constraints ---


def test_regularizers_see_theta():
    """The penalties of all weights are those of the layer alone, alone and in `fit`."""

    def make():
        return layers.Dense(
            3, kernel_regularizer="l2", bias_regularizer="l1", bias_initializer="ones"
        )

    ours, theirs = vector_model(make, wrapped), vector_model(make, plain)
    penalties = [float(numpy(sum(model.losses))) for model in (ours, theirs)]
    np.testing.assert_allclose(*penalties, rtol=1e-6)
    assert len(ours.losses) == len(theirs.losses) == 2
    frozen = [fit(model, optimizers.SGD(0.0))[0] for model in (ours, theirs)]
    np.testing.assert_allclose(*frozen, rtol=1e-6)
    assert float(numpy(sum(theirs.losses))) > 0.03


@pytest.mark.full
def test_activity_regularizer_counts_once():
    """As does `add_loss`, in eager calls, `fit` and `evaluate`."""
    make = lambda: layers.Dense(3, activity_regularizer=keras.regularizers.L2(1.0))  # noqa: E731
    for kind in (make, Recorder):
        ours, theirs = vector_model(kind, wrapped), vector_model(kind, plain)
        for model in (ours, theirs):
            model.compile(optimizers.SGD(0.0), "mse")
        results = [
            [
                model.evaluate(X, Y, batch_size=32, verbose=0),
                model.fit(X, Y, batch_size=32, verbose=0).history["loss"][0],
            ]
            for model in (ours, theirs)
        ]
        np.testing.assert_allclose(*results, rtol=1e-5)
        losses = []
        for model in (ours, theirs):
            model(X)
            model(X)
            losses.append([float(numpy(loss)) for loss in model.losses])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        assert len(losses[0]) == 1
    assert results[0][0] > 100


def test_constraints_see_theta():
    """After a step the columns of θ, not of φ, have norm 1."""
    make = lambda: layers.Dense(3, kernel_constraint="unit_norm")  # noqa: E731
    model = vector_model(make, wrapped)
    fit(model, optimizers.SGD(1e-2))
    wrapper = model.layers[1]
    norms = np.linalg.norm(wrapper.effective_weights()[0], axis=0)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(wrapper.get_weights()[0], axis=0), 0.25, rtol=1e-5)


def test_a_layer_that_sets_its_own_weights():
    """What a layer assigns to its weights is θ, and is stored as φ."""

    class Doubling(layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

        def call(self, inputs):
            outputs = inputs * self.gain
            self.gain.assign(self.gain * 2.0)
            return outputs + 0.0 * self.gain

    wrapper = wrapped(Doubling())
    np.testing.assert_allclose(numpy(wrapper(X)), X)
    np.testing.assert_allclose(numpy(wrapper(X)), 2 * X)
    np.testing.assert_allclose([*wrapper.effective_weights(), *wrapper.get_weights()], [4.0, 1.0])


def test_a_variable_of_another_layer_is_read_as_it_is():
    """A layer that borrows a weight without owning it passes the gradient on to it."""
    drawn.seed_keras(0)

    def model(wrap):
        owner = layers.Dense(4, name="owner", kernel_initializer="ones")
        inputs = keras.Input((4,))
        hidden = owner(inputs)

        class Borrower(layers.Layer):
            def call(self, inputs):
                return ops.matmul(inputs, borrowed[0])

        borrowed = [owner.kernel]
        head = layers.Dense(1, kernel_initializer="ones")
        return keras.Model(inputs, head(wrap(Borrower())(hidden)))

    ours, theirs = model(wrapped), model(plain)
    for each in (ours, theirs):
        fit(each, optimizers.SGD(1e-4))
    assert distance(ours.get_weights(), theirs.get_weights()) < 1e-6
    assert np.abs(ours.get_weights()[0] - 1).max() > 1e-3


# --- Calls ---


@pytest.mark.full
def test_masks_go_in_and_come_out():
    """The wrapped layer gets the mask of its input and hands on its own."""
    words = np.array([[1, 2, 0], [3, 0, 0]])
    embedding = wrapped(layers.Embedding(5, 4, mask_zero=True))
    vectors = embedding(words)
    mask = numpy(keras.src.backend.get_keras_mask(vectors))
    np.testing.assert_array_equal(mask, words != 0)
    encoder = wrapped(layers.SimpleRNN(3))
    np.testing.assert_allclose(
        numpy(encoder(vectors)), numpy(encoder(vectors * 1, mask=mask)), rtol=1e-6
    )
    assert np.abs(numpy(encoder(vectors * 1)) - numpy(encoder(vectors))).max() > 1e-3
    assert encoder.compute_mask(vectors, mask) is None
    assert embedding.supports_masking
    assert not wrapped(Recorder()).supports_masking


def test_training_reaches_the_layer():
    """By argument, and from the call around."""
    wrapper = wrapped(layers.Dropout(0.5, seed=drawn.seed(1)))
    np.testing.assert_array_equal(numpy(wrapper(X)), X)
    assert (numpy(wrapper(X, training=True)) == 0).any()
    first, second = (numpy(wrapper(X, training=True)) for _ in range(2))
    assert (first != second).any()
    model = keras.Sequential([keras.Input((4,)), wrapper])
    assert (numpy(model(X, training=True)) == 0).any()
    np.testing.assert_array_equal(model.predict(X, verbose=0), X)


@pytest.mark.full
def test_tensors_beside_options():
    """A layer of several inputs takes its options, by name, with masks beside them."""
    drawn.seed_keras(0)
    layer = layers.MultiHeadAttention(2, 3)
    x = random.normal(size=(2, 3, 4)).astype("float32")
    options = {
        "attention_mask": np.tril(np.ones((2, 3, 3), bool)),
        "return_attention_scores": True,
        "training": False,
    }
    expected = [numpy(part) for part in layer(x, value=x, **options)]
    for ours, theirs in zip(wrapped(layer)(x, value=x, **options), expected, strict=True):
        np.testing.assert_allclose(numpy(ours), theirs, rtol=1e-5, atol=1e-6)


def test_wrong_inputs_fail_as_without():
    """The wrapped layer's own check of its inputs holds."""
    wrapper = wrapped(layers.Dense(3))
    wrapper(X)
    with pytest.raises(ValueError, match="expected axis -1"):
        wrapper(np.ones((2, 7), "float32"))


def test_shared_wrapper_learns_from_both_calls():
    """A wrapper that is called twice has one φ, and both gradients reach it."""

    def model(wrap):
        drawn.seed_keras(4)
        left, right = keras.Input((4,)), keras.Input((4,))
        shared = wrap(layers.Dense(3, activation="tanh", name="enc"))
        outputs = layers.Dense(1)(layers.concatenate([shared(left), shared(right)]))
        return keras.Model([left, right], outputs)

    ours, theirs = model(wrapped), model(plain)
    rule = fg.Rule("enc", learning_rate_multiplier=16.0)
    fit(ours, optimizers.SGD(1e-3), [X, X[::-1]])
    fit(theirs, fg.PerWeight(optimizers.SGD(1e-3), [rule]), [X, X[::-1]])
    assert len(ours.weights) == 4
    assert distance(weights_of(ours), weights_of(theirs)) < 1e-6


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eager_and_compiled_are_the_same(options):
    """Whether each step is run, traced or compiled."""
    if options.get("jit_compile") and keras.backend.backend() == "torch":
        pytest.skip("Keras compiles PyTorch models by TorchDynamo, which is slow to start")
    ours, theirs = perceptron(wrapped), perceptron(wrapped)
    losses = fit(ours, optimizers.SGD(1e-3), **options)
    np.testing.assert_allclose(losses, fit(theirs, optimizers.SGD(1e-3)), rtol=1e-5)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's functions")
def test_a_first_call_inside_a_function_divides_once():
    import tensorflow as tf

    wrapper = wrapped(layers.Dense(3, kernel_initializer="ones"))
    function = tf.function(wrapper)
    for _ in range(3):
        np.testing.assert_allclose(numpy(function(X)), np.tile(X.sum(1)[:, None], 3), atol=1e-5)
    np.testing.assert_array_equal(wrapper.get_weights()[0], 0.25)


# --- Precision, freezing, copies ---


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precision_is_the_wrapped_layers(dtype):
    """θ is computed in the weights' precision and cast by the wrapped layer."""
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is switched on")
    drawn.seed_keras(0)
    layer = layers.Dense(3, dtype=dtype)
    before = layer(X)
    after = wrapped(layer, 9.0)(X)
    assert after.dtype == before.dtype
    np.testing.assert_allclose(
        numpy(after).astype("float64"), numpy(before).astype("float64"), atol=5e-3
    )
    inputs = keras.Input((4,))
    symbolic = wrapped(layers.Dense(3, dtype=dtype))(inputs)
    assert symbolic.dtype == keras.DTypePolicy(dtype).compute_dtype


def test_mixed_precision_trains():
    """Under mixed_float16 weights stay float32, losses are those of the layer alone."""
    keras.config.set_dtype_policy("mixed_float16")
    ours, theirs = vector_model(nested, wrapped), vector_model(nested, plain)
    assert {weight.dtype for weight in ours.weights} == {"float32"}
    scaled = lambda: optimizers.LossScaleOptimizer(optimizers.SGD(1e-4), initial_scale=64.0)  # noqa: E731
    losses = fit(ours, scaled())
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[0], fit(theirs, scaled())[0], rtol=2e-2)


def test_full_precision_within_a_mixed_model():
    """A float32 layer is not rounded to half precision on its way through the wrapper."""
    keras.config.set_dtype_policy("mixed_float16")
    layer = layers.Dense(1, dtype="float32", kernel_initializer=keras.initializers.Constant(1 / 3))
    model = keras.Sequential([keras.Input((1,)), wrapped(layer)])
    outputs = model(np.array([[1.0]], "float32"))
    assert float(numpy(outputs)[0, 0]) == np.float32(1 / 3)


def test_frozen_wrapper_uses_theta():
    """Freezing changes no output; a frozen layer that is released learns at its own rate."""
    model = perceptron(wrapped)
    wrapper, before = model.layers[1], model.predict(X, verbose=0)
    wrapper.trainable = False
    assert not wrapper.layer.trainable
    assert not wrapper.trainable_weights
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    stored = wrapper.get_weights()
    fit(model, optimizers.SGD(1e-2))
    for ours, theirs in zip(wrapper.get_weights(), stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    wrapper.trainable = True
    fit(model, optimizers.SGD(1e-2))
    assert distance(wrapper.get_weights(), stored) > 1e-4


def test_a_frozen_layer_can_be_wrapped():
    """Its weights are divided too, and move once they are released; so with the argument."""
    layer = layers.Dense(3, trainable=False)
    before = numpy(layer(X))
    wrapper = wrapped(layer)
    np.testing.assert_array_equal(numpy(wrapper(X)), before)
    assert not wrapper.trainable_weights
    layer.trainable = True
    assert len(wrapper.trainable_weights) == 2
    assert wrapper.get_weights()[0].max() * 4 == wrapper.effective_weights()[0].max()
    wrapper = wrapped(layers.Dense(3), trainable=False)
    wrapper(X)
    assert not wrapper.trainable_weights
    assert wrapper.get_config()["trainable"] is False


@pytest.mark.full
def test_weight_files(tmp_path):
    """A `.weights.h5` holds φ: it fits a model that was built afresh."""
    model = vector_model(nested, wrapped)
    fit(model, optimizers.Adam(1e-3))
    model.save_weights(tmp_path / "model.weights.h5")
    again = vector_model(nested, wrapped)
    assert distance(again.get_weights(), model.get_weights()) > 1e-4
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.full
def test_copies_are_models_of_their_own():
    """Cloned and pickled models have wrappers and weights of their own."""
    model = perceptron(wrapped)
    clone = keras.models.clone_model(model)
    again = pickle.loads(pickle.dumps(model))
    clone.set_weights(model.get_weights())
    for copy in (clone, again):
        np.testing.assert_array_equal(copy.predict(X, verbose=0), model.predict(X, verbose=0))
        assert copy.layers[1].layer is not model.layers[1].layer
        fit(copy, optimizers.SGD(1e-2))
    assert distance(clone.get_weights(), again.get_weights()) < 1e-6
    fresh = keras.models.clone_model(model).layers[1]
    assert np.abs(fresh.effective_weights()[0]).max() > np.abs(fresh.get_weights()[0]).max() > 0


def test_effective_weights_make_a_plain_layer():
    """They fit the layer without its wrapper, statistics included."""
    model = vector_model(layers.BatchNormalization, wrapped)
    fit(model, optimizers.SGD(1e-2))
    wrapper, layer = model.layers[1], layers.BatchNormalization()
    layer.build((None, 4))
    layer.set_weights(wrapper.effective_weights())
    np.testing.assert_allclose(numpy(layer(X)), numpy(wrapper(X)), atol=1e-6)
    np.testing.assert_array_equal(wrapper.get_weights()[2], wrapper.effective_weights()[2])


def test_config_round_trip():
    """The configuration has every argument, and makes an equal wrapper."""
    wrapper = wrapped(layers.Dense(3, name="enc"), 5.0, adaptive=True, name="fast")
    config = wrapper.get_config()
    assert set(config) == {"name", "trainable", "layer", "multiplier", "adaptive"}
    again = SetLearningRate.from_config(wrapper.get_config())
    assert again.get_config() == config
    assert (again.name, again.multiplier, again.adaptive) == ("fast", 5.0, True)
    assert keras.saving.get_registered_name(SetLearningRate) == "finegrain>SetLearningRate"


# --- Errors ---


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("dense", 2.0, True), TypeError, r"Keras layer or model.*Received: layer='dense'"),
        ((None, 2.0, True), TypeError, "Received: layer=None of type NoneType"),
        ((layers.Dense, 2.0, True), TypeError, "should be a Keras layer"),
        ((layers.Dense(1), "2", True), TypeError, "number above 0.*multiplier='2'"),
        ((layers.Dense(1), None, True), TypeError, "multiplier=None"),
        ((layers.Dense(1), True, True), TypeError, "multiplier=True"),
        ((layers.Dense(1), 0, True), ValueError, "trainable = False.*multiplier=0"),
        ((layers.Dense(1), -1.0, True), ValueError, "multiplier=-1.0"),
        ((layers.Dense(1), np.inf, False), ValueError, "finite.*multiplier=inf"),
        ((layers.Dense(1), np.nan, False), ValueError, "multiplier=nan"),
        ((layers.Dense(1), 2.0, None), TypeError, "False for SGD. Received: adaptive=None"),
        ((layers.Dense(1), 2.0, 1), TypeError, "adaptive=1"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SetLearningRate(*arguments)


def test_arguments_of_the_wrapped_layer():
    """What would be ignored is an error, and `adaptive` has no default."""
    with pytest.raises(TypeError, match="Received: activity_regularizer, dtype"):
        wrapped(layers.Dense(1), dtype="float16", activity_regularizer="l2")
    parameters = inspect.signature(SetLearningRate).parameters
    assert parameters["adaptive"].default is inspect.Parameter.empty


@pytest.mark.full
def test_lost_weights_are_an_error():
    """Quantization puts weights in the place of those that were divided."""
    model = perceptron(wrapped)
    model.layers[1].layer.quantize("int8")
    with pytest.raises(ValueError, match=r"should keep its weights.*enc/kernel"):
        model.layers[1](X)


def test_layers_that_cannot_be_traced():
    """They work eagerly once their weights are there; one that cannot be built says why."""

    class Untraceable(layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

        def call(self, inputs):
            return inputs * self.gain * float(numpy(inputs).max() > 0)

    np.testing.assert_allclose(numpy(wrapped(Untraceable())(X)), X)

    class Unbuildable(layers.Layer):
        def build(self, input_shape):
            raise ValueError("no weights today")

    with pytest.raises(ValueError, match="no weights today"):
        wrapped(Unbuildable())(X)


@pytest.mark.one_backend
def test_underscore_attributes_of_keras():
    """What is used of Keras beyond its public names: fails when a release changes it."""
    model = nested()
    parts = model._flatten_layers()
    trainable = {id(variable) for variable in model.trainable_variables}
    model.trainable = False
    assert {id(v) for part in parts for v in part._trainable_variables} == trainable
    assert model._call_signature == inspect.signature(model.call)
    with keras.StatelessScope():
        layer = layers.Dense(2)
        layer.build((None, 3))
        assert layer.kernel._value is None
        assert callable(layer.kernel._initializer)
    assert layer.kernel._value is not None
