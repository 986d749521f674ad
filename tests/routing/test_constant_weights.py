"""Layers called with their weights as constants: each kind of layer, each way of calling."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from finegrain.routing.overlay import is_built
from oracle import finite_differences
from routing.differentiate import BACKEND, array, arrays, differentiate

constant_weights = fg.routing.constant_weights
both = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


class Member(NamedTuple):
    """A kind of layer, and the shape of its inputs."""

    name: str
    make: Callable[[], keras.layers.Layer]
    shape: tuple[int, ...]


def shared():
    """A model that uses one layer twice."""
    inputs = keras.Input((4,))
    dense = layers.Dense(4, "tanh")
    return keras.Model(inputs, dense(dense(inputs)))


def nested():
    """Models in a model, with statistics in the inner one."""
    inner = keras.Sequential([layers.Dense(5, "tanh"), layers.BatchNormalization()])
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


class Subclassed(keras.Model):
    """Builds its weights at the first call."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(3, "tanh"), layers.Dense(1)

    def call(self, x):
        return self.second(self.first(x))


MEMBERS = [
    Member("dense", lambda: layers.Dense(3, "tanh"), (2, 4)),
    Member("conv", lambda: layers.Conv2D(2, 3, activation="tanh"), (2, 5, 5, 2)),
    Member("transposed conv", lambda: layers.Conv2DTranspose(2, 3, strides=2), (2, 3, 3, 2)),
    Member("batch normalization", layers.BatchNormalization, (6, 3)),
    Member("layer normalization", layers.LayerNormalization, (2, 4)),
    Member("lstm", lambda: layers.LSTM(3), (2, 4, 2)),
    Member("shared", shared, (2, 4)),
    Member("nested", nested, (6, 4)),
    Member("subclassed", Subclassed, (2, 4)),
    Member(
        "reparametrized",
        lambda: fg.layers.SetLearningRate(layers.Dense(3, "tanh"), 9.0, False),
        (2, 4),
    ),
]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
# What the selection has without a compiler: JAX compiles each operation alone, which takes longer
# than all together. PyTorch has but one way here.
SHORT = ["dense", "batch normalization"]
COMPILED = ["batch normalization", "lstm", "shared", "nested", "reparametrized"]
ways = [
    pytest.param(member, False, marks=() if member.name in SHORT else pytest.mark.full)
    for member in MEMBERS
]
ways += [
    pytest.param(member, True, marks=() if member.name in COMPILED else pytest.mark.full)
    for member in MEMBERS
    if BACKEND != "torch"
]
every_way = pytest.mark.parametrize(
    ("member", "compiled"),
    ways,
    ids=lambda value: getattr(value, "name", "compiled" if value else "eager"),
)


def inputs_of(member, dtype="float32"):
    return drawn.generator(3).normal(size=member.shape).astype(dtype)


def loss_through(call):
    """A sum that every output enters with another weight."""

    def loss(x):
        outputs = ops.cast(call(x, training=True), "float32")
        count = int(np.prod(outputs.shape))
        factors = np.cos(np.arange(count, dtype="float32")).reshape(outputs.shape)
        return ops.sum(outputs * ops.convert_to_tensor(factors)) + ops.sum(outputs**2)

    return loss


def call_of(layer, is_constant):
    call = constant_weights(layer) if is_constant else layer
    takes_training = "training" in layer._call_signature.parameters
    return lambda x, training: call(x, training=training) if takes_training else call(x)


@pytest.mark.selected(
    "dense-eager", "batch normalization-compiled", "lstm-compiled", "reparametrized-compiled"
)
@every_way
def test_gradient_reaches_the_inputs_alone(member, compiled):
    """The one of the plain call there, and exact zeros at every weight."""
    layer, x = member.make(), inputs_of(member)
    layer(x)
    free = differentiate(loss_through(call_of(layer, False)), x, [layer], compiled=compiled)
    held = differentiate(loss_through(call_of(layer, True)), x, [layer], compiled=compiled)
    assert len(free.weights) == len(layer.trainable_variables) > 0
    assert all(np.abs(gradient).max() > 1e-3 for gradient in free.weights)
    assert not any(gradient.any() for gradient in held.weights)
    np.testing.assert_allclose(held.value, free.value, rtol=1e-5)
    np.testing.assert_allclose(held.inputs, free.inputs, rtol=1e-4, atol=1e-5)


# The LSTM, which JAX would compile for each of many calls, is compared with its free call above.
@pytest.mark.selected("dense", "batch normalization", "reparametrized")
@pytest.mark.parametrize(
    "member", [m for m in MEMBERS if m.name != "lstm"], ids=lambda member: member.name
)
def test_gradient_is_that_of_differences(member):
    """Central differences of the layer's own function, in float64 where the backend has it."""
    dtype, step, tolerance = (
        ("float32", 1e-2, 2e-2) if BACKEND != "tensorflow" else ("float64", 1e-5, 1e-6)
    )
    x = inputs_of(member, dtype)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    layer = member.make()
    layer(x)
    call = call_of(layer, True)
    result = differentiate(lambda x: call(x, training=False) ** 2, x, [layer])

    def value(x):
        return float((array(layer(x.astype(dtype))).astype("float64") ** 2).sum())

    (expected,) = finite_differences(value, x, step=step)
    np.testing.assert_allclose(result.inputs, expected, rtol=tolerance, atol=tolerance)


@both
def test_batch_normalization_is_updated_once(compiled):
    """By momentum once, to the last digit as by a plain call."""
    x = inputs_of(MEMBERS[3])
    moved = []
    for is_constant in (True, False):
        layer = layers.BatchNormalization(momentum=0.9)
        layer(x)
        loss = loss_through(call_of(layer, is_constant))
        differentiate(loss, x, [layer], compiled=compiled)
        moved.append(arrays(layer.non_trainable_variables))
    np.testing.assert_allclose(moved[0][0], 0.1 * x.mean(0), rtol=1e-5, atol=1e-7)
    for mine, plain in zip(*moved, strict=True):
        np.testing.assert_array_equal(mine, plain)


@both
def test_dropout_draws_once(compiled):
    """The seed moves by one call, and the next mask is another one."""
    layer = layers.Dropout(0.5, seed=drawn.seed(7))
    x = np.ones((4, 50), "float32")
    twin = layers.Dropout(0.5, seed=drawn.seed(7))
    for _ in range(2):
        held = differentiate(
            lambda x: constant_weights(layer)(x, training=True), x, [layer], compiled=compiled
        )
        free = differentiate(lambda x: twin(x, training=True), x, [twin], compiled=compiled)
        np.testing.assert_array_equal(held.inputs, free.inputs)
    np.testing.assert_array_equal(arrays(layer.variables), arrays(twin.variables))


def test_second_derivatives():
    """Of an input gradient with constant weights: at the inputs as plain, at the weights none."""
    from finegrain._backend import backend

    layer = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])
    x = inputs_of(MEMBERS[0])

    def penalty(call):
        return lambda x: backend.gradient(lambda x: (ops.sum(call(x)), None), x)[0] ** 2

    free = differentiate(penalty(layer), x, [layer])
    held = differentiate(penalty(constant_weights(layer)), x, [layer])
    np.testing.assert_allclose(held.inputs, free.inputs, rtol=1e-5)
    assert not any(gradient.any() for gradient in held.weights)
    assert any(gradient.any() for gradient in free.weights)


def test_assignments_to_trained_weights_are_forgotten():
    """With a warning that names the weight and the cure; in inference there is none to warn of."""
    layer = layers.SpectralNormalization(layers.Dense(3), name="normalized")
    x = inputs_of(MEMBERS[0])
    layer(x)
    kernel = array(layer.layer.kernel).copy()
    with pytest.warns(UserWarning, match=r"finegrain\.layers\.SpectralNormalization.*kernel"):
        outputs = constant_weights(layer)(x, training=True)
    np.testing.assert_array_equal(array(layer.layer.kernel), kernel)
    assert not np.allclose(array(outputs), x @ kernel, rtol=1e-3)
    constant_weights(layer)(x, training=False)


@pytest.mark.selected("mixed_float16")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Half precision inside, whole weights outside."""
    keras.config.set_dtype_policy(policy)
    layer = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
    x = inputs_of(MEMBERS[0])
    assert array(constant_weights(layer)(x)).dtype == array(layer(x)).dtype
    free = differentiate(lambda x: ops.cast(layer(x), "float32"), x, [layer])
    held = differentiate(lambda x: ops.cast(constant_weights(layer)(x), "float32"), x, [layer])
    np.testing.assert_array_equal(held.value, free.value)
    np.testing.assert_array_equal(held.inputs, free.inputs)
    assert not any(gradient.any() for gradient in held.weights)


def test_a_whole_layer_in_a_half_precision_model_keeps_all_digits():
    """Its weights are not cast by the policy of the layer around."""
    inner = layers.Dense(3, dtype="float32", kernel_initializer="glorot_uniform")

    class Outer(keras.layers.Layer):
        def __init__(self, call, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.inner_call = inner, call

        def call(self, x):
            return self.inner_call(x)

    x = inputs_of(MEMBERS[0])
    inner(x)
    results = [
        array(Outer(call, dtype="mixed_float16")(x)) for call in (constant_weights(inner), inner)
    ]
    np.testing.assert_array_equal(*results)
    assert results[0].dtype == "float32"


class Two(keras.Model):
    """A source before a critic of constant weights, in `call`, with losses and statistics."""

    def __init__(self, critic, is_constant=True):
        super().__init__()
        self.source = layers.Dense(4, name="source")
        self.critic = critic
        self.is_constant = is_constant

    def call(self, x, training=False):
        critic = constant_weights(self.critic) if self.is_constant else self.critic
        return critic(self.source(x), training=training)


def critic():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(momentum=0.5),
            layers.Dense(
                3,
                kernel_regularizer=keras.regularizers.L2(0.5),
                activity_regularizer=keras.regularizers.L2(0.25),
            ),
        ],
        name="critic",
    )


# Keras says so of the critic, which no other loss reaches here.
@pytest.mark.selected("compiled")
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "compiled"])
def test_inside_fit(jit_compile):
    """The trajectories are those beside a critic that a rule holds."""
    if BACKEND == "torch" and jit_compile:
        pytest.skip("Keras compiles PyTorch models by TorchDynamo, which is slow to start")
    x = inputs_of(Member("", critic, (8, 4)))
    outcomes = []
    for is_constant in (True, False):
        drawn.seed_keras(1)
        plain = keras.Sequential(
            [keras.Input((4,)), layers.BatchNormalization(momentum=0.5), layers.Dense(3)]
        )
        model = Two(plain, is_constant)
        model(x)
        optimizer = keras.optimizers.SGD(0.1)
        if not is_constant:
            optimizer = fg.PerWeight(optimizer, [fg.Rule(model.critic, trainable=False)])
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        model.fit(x, np.ones((8, 3)), epochs=2, batch_size=4, shuffle=False, verbose=0)
        outcomes.append(arrays(model.variables))
    for mine, held in zip(*outcomes, strict=True):
        np.testing.assert_allclose(mine, held, rtol=1e-5, atol=1e-6)


def test_losses_inside_count_once():
    """The activity loss and the loss on the kernel, in `evaluate` as plain."""
    x = inputs_of(Member("", critic, (8, 4)))
    totals = []
    for is_constant in (True, False):
        drawn.seed_keras(1)
        model = Two(critic(), is_constant)
        model(x)
        model.compile("sgd", "mse")
        totals.append(model.evaluate(x, np.ones((8, 3)), verbose=0))
        model(x)
        assert len(model.losses) == 2
    np.testing.assert_allclose(*totals, rtol=1e-6)


def test_losses_inside_reach_the_inputs_alone():
    """The activity loss of a layer of constant weights moves what came before it."""
    layer = layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.5))
    x = inputs_of(MEMBERS[0])
    layer(x)

    def loss(x):
        with keras.StatelessScope(collect_losses=True) as scope:
            outputs = constant_weights(layer)(x)
        (activity,) = scope.losses
        return activity + 0 * ops.sum(outputs)

    if BACKEND == "jax":  # scopes of the user's own do not see the outer one's values
        import jax

        inputs = np.asarray(jax.grad(loss)(ops.convert_to_tensor(x)))
    else:
        result = differentiate(loss, x, [layer])
        assert not any(gradient.any() for gradient in result.weights)
        inputs = result.inputs
    kernel = array(layer.kernel)
    np.testing.assert_allclose(inputs, x @ kernel @ kernel.T / len(x), rtol=1e-4, atol=1e-6)


def test_a_call_inside_of_a_call():
    """Twice held is held, and what is updated comes out of both."""
    inner = layers.BatchNormalization(momentum=0.5)

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner, self.dense = inner, layers.Dense(3)

        def build(self, shape):
            self.inner.build(shape)
            self.dense.build(shape)

        def call(self, x, training=False):
            return self.dense(constant_weights(self.inner)(x, training=training))

    layer, x = Outer(), inputs_of(MEMBERS[3])
    layer(x)
    held = differentiate(lambda x: constant_weights(layer)(x, training=True) ** 2, x, [layer])
    assert not any(gradient.any() for gradient in held.weights)
    assert held.inputs.any()
    np.testing.assert_allclose(array(inner.moving_mean), 0.5 * x.mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.full
def test_both_calls_in_one_loss():
    """The generator's and the discriminator's gradients from one loss: the source's identity.

    The same as two losses, each differentiated by itself.
    """
    generator = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh")])
    judge = keras.Sequential([keras.Input((3,)), layers.Dense(5, "tanh"), layers.Dense(1)])
    z, both_nets = inputs_of(MEMBERS[0]), [generator, judge]

    def for_judge(z):
        return ops.relu(1 - judge(fg.routing.stop_gradient(generator(z))))

    def whole(z):
        fake = generator(z)
        stopped = judge(fg.routing.stop_gradient(fake))
        return ops.relu(1 - stopped) + constant_weights(judge)(fake)

    def subtracted(z):
        return for_judge(z) + fg.routing.inner_gradient_only(judge, generator(z))

    one = differentiate(whole, z, both_nets)
    of_judge = differentiate(for_judge, z, both_nets).weights[2:]
    of_generator = differentiate(lambda z: judge(generator(z)), z, both_nets).weights[:2]
    difference = differentiate(subtracted, z, both_nets)
    for mine, expected in zip(one.weights, of_generator + of_judge, strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)
    for mine, expected in zip(one.weights, difference.weights, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_inside_custom_gradient():
    """A function with a gradient of its own may call a layer of constant weights."""
    layer = layers.Dense(3, "tanh")
    x = inputs_of(MEMBERS[0])
    layer(x)

    def slope(*args, upstream=None, variables=()):
        upstream = args[-1] if upstream is None else upstream
        inputs = 2 * upstream @ ops.transpose(ops.convert_to_tensor(layer.kernel))
        # TensorFlow asks for the gradients of all variables that were read.
        return (inputs, [None for _ in variables]) if variables else inputs

    @ops.custom_gradient
    def doubled(x):
        return constant_weights(layer)(x), slope

    # JAX's custom gradients may not close over what is differentiated.
    result = differentiate(doubled, x, [] if BACKEND == "jax" else [layer])
    kernel = array(layer.kernel)
    np.testing.assert_allclose(result.inputs, 2 * np.ones((2, 3)) @ kernel.T, rtol=1e-5, atol=1e-6)
    assert not any(gradient.any() for gradient in result.weights)


@pytest.mark.selected("dense", "lstm", "nested")
@every_member
def test_unbuilt_layers_are_built(member):
    """By the first such call, with weights that train afterwards."""
    layer, x = member.make(), inputs_of(member)
    outputs = constant_weights(layer)(x)
    assert is_built(layer)
    assert all(variable._value is not None for variable in layer.variables)
    np.testing.assert_allclose(array(layer(x)), array(outputs), rtol=1e-6, atol=1e-6)
    assert differentiate(lambda x: layer(x) ** 2, x, [layer]).weights[0].any()


def test_masks_and_several_inputs_pass():
    layer = layers.Attention(use_scale=True)
    query, value = np.ones((1, 2, 3), "float32"), np.ones((1, 4, 3), "float32")
    value[0, 2] = 100.0
    mask = [None, ops.convert_to_tensor([[True, True, False, True]])]
    outputs = constant_weights(layer)(
        [ops.convert_to_tensor(query), ops.convert_to_tensor(value)], mask=mask
    )
    np.testing.assert_allclose(array(outputs), np.ones((1, 2, 3)), rtol=1e-6)


def test_the_layer_stays_trainable():
    """And what was constant in one call is free in the next."""
    layer, x = layers.Dense(2), inputs_of(MEMBERS[0])
    constant_weights(layer)(x)
    assert layer.trainable
    assert all(variable.trainable for variable in layer.variables)
    assert all(g.any() for g in differentiate(lambda x: layer(x), x, [layer]).weights)


def test_wrong_use_is_refused():
    with pytest.raises(TypeError, match="inner_gradient_only"):
        constant_weights(lambda x: x)
    with pytest.raises(TypeError, match="symbolic"):
        constant_weights(layers.Dense(2))(keras.Input((3,)))
    if BACKEND == "torch":
        import torch

        hidden = layers.TorchModuleWrapper(torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match="inside of TorchModuleWrapper"):
            constant_weights(hidden)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's memory")
def test_torch_keeps_nothing_for_the_weights():
    """A Dense layer of constant weights keeps what the gradient to its inputs needs: the kernel."""
    import torch

    layer = layers.Dense(3)
    x = torch.ones((4, 2), requires_grad=True)
    layer(x)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(held.append, lambda tensor: tensor):
        constant_weights(layer)(x)
    assert [tuple(tensor.shape) for tensor in held] in ([(2, 3)], [(3, 2)])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA tells what it computes")
def test_a_compiler_shares_the_forward_pass():
    """Such a call beside a free one costs one forward pass; the subtraction more than that."""
    import jax

    critic = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(64)]
    )
    weights = [variable.value for variable in critic.trainable_variables]

    def free(weights, made):
        return critic.stateless_call(weights, [], made)[0]

    def held(weights, made):
        with keras.StatelessScope(zip(critic.trainable_variables, weights, strict=True)):
            return constant_weights(critic)(made)

    def both(weights, x):
        return ops.sum(free(weights, ops.stop_gradient(x)) - held(weights, x))

    def subtracted(weights, x):
        judged = free(weights, ops.stop_gradient(x))
        return ops.sum(judged - fg.routing.inner_gradient_only(lambda x: free(weights, x), x))

    def work(function):
        compiled = jax.jit(function).lower(weights, np.ones((32, 64), "float32")).compile()
        return compiled.cost_analysis()["flops"]

    once = work(lambda weights, x: ops.sum(free(weights, x)))
    assert work(both) < 1.1 * once
    steps = [work(jax.value_and_grad(function, (0, 1))) for function in (both, subtracted)]
    assert steps[0] < 0.95 * steps[1], steps
