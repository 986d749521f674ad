"""Weights that a rule holds: they and their slots stay, and their gradients touch nothing else."""

import keras
import numpy as np
import pytest
from keras import layers, ops, optimizers

import drawn
import finegrain as fg
from compiling import JIT
from covering import chosen
from optimizers.contract import (
    LEARNING_RATE,
    OPTIMIZERS,
    TRIED,
    X,
    Y,
    apply,
    assert_bit_equal,
    assert_moved,
    compiled,
    fill,
    mean_output,
    mlp,
    push,
    random_gradients,
    state,
    train,
    two_towers,
    unit_slope_model,
    values,
    variables,
)

BACKEND = keras.backend.backend()

every_optimizer = pytest.mark.parametrize("name", chosen(OPTIMIZERS, TRIED))


def never(step):
    """A multiplier that is 0 at each step."""
    return ops.cast(step, "float32") * 0.0


def twice(step):
    """A multiplier that is 0 from the third step on."""
    return ops.where(step < 2, 1.0, 0.0)


WAYS = {
    "multiplier": {"learning_rate_multiplier": 0},
    "rate": {"learning_rate": 0.0},
    "trainable": {"trainable": False},
    "schedule": {"learning_rate_multiplier": never},
    "trainable-and-multiplier": {"trainable": False, "learning_rate_multiplier": 2.0},
}
every_way = pytest.mark.parametrize("way", WAYS)

RELEASES = {
    "multiplier": lambda optimizer: optimizer.set("head", learning_rate_multiplier=1.0),
    "rate": lambda optimizer: optimizer.set("head", learning_rate=LEARNING_RATE),
    "trainable": lambda optimizer: optimizer.set("head", trainable=True),
}
RELEASE_OF_TRAINABLE_BY_MULTIPLIER = "trainable-by-multiplier"


def held(name, way, **arguments):
    """`mlp()` with an optimizer that holds its head."""
    optimizer = fg.PerWeight(OPTIMIZERS[name](**arguments), [fg.Rule("head", **WAYS[way])])
    return compiled(optimizer)


def of_head(store):
    """What of a stored state serves the weights of the head."""
    return {key: value for key, value in store.items() if key.startswith("head|")}


def assert_same(mine, other):
    """Two stored states agree to the last bit."""
    assert list(mine) == list(other)
    for key, value in mine.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key, strict=True)


def assert_head_has_not_begun(model, name):
    """Its weights are as they were made and its state as it was built, unlike the encoder's."""
    new = fg.PerWeight(OPTIMIZERS[name]())
    new.build(mlp().weights)
    now, begun = state(model.optimizer), state(new)
    assert any(key.endswith(":step:iterations") for key in of_head(now))
    assert_same(of_head(now), of_head(begun))
    assert now["encoder|kernel:step:iterations"] > 0
    for start, weight in zip(values(mlp().weights), model.weights, strict=True):
        moved = not np.array_equal(start, values([weight])[0])
        assert moved == weight.path.startswith("encoder/"), weight.path


class TestStill:
    @pytest.mark.selected(
        "sgd_momentum-multiplier",
        "adam-rate",
        "adafactor-trainable",
        "nadam-schedule",
        "schedule_free_adamw-trainable-and-multiplier",
    )
    @every_way
    @every_optimizer
    def test_neither_weights_nor_slots_move(self, name, way):
        """Weights, slots and step counts stay; the others learn as if there were no more."""
        model, alone = held(name, way), mlp()
        optimizer = OPTIMIZERS[name]()
        for gradients in random_gradients(model.weights):
            model.optimizer.apply(gradients, model.weights)
            optimizer.apply(gradients[:2], alone.weights[:2])
        assert_head_has_not_begun(model, name)
        assert_bit_equal(model, alone)

    @every_optimizer
    def test_a_schedule_that_comes_to_zero(self, name):
        """The weights learn as long as it is positive, and stop with their slots."""
        rules = [fg.Rule("head", learning_rate_multiplier=twice)]
        model, plain = compiled(fg.PerWeight(OPTIMIZERS[name](), rules)), mlp()
        optimizer = OPTIMIZERS[name]()
        for step, gradients in enumerate(random_gradients(model.weights, 4)):
            model.optimizer.apply(gradients, model.weights)
            if step < 2:
                optimizer.apply(gradients, plain.weights)
                stored = of_head(state(model.optimizer))
        assert_bit_equal_part(model, plain, "head")
        assert_same(of_head(state(model.optimizer)), stored)
        assert state(model.optimizer)["encoder|kernel:step:iterations"] == 4
        assert state(model.optimizer)["head|kernel:step:iterations"] == 2

    @pytest.mark.selected("adam-schedule", "adam-trainable")
    @pytest.mark.parametrize(
        ("name", "way"),
        [
            ("sgd_momentum", "multiplier"),
            ("adam", "schedule"),
            ("adam", "trainable"),
            ("ftrl", "rate"),
            ("schedule_free_adamw", "multiplier"),
        ],
    )
    def test_in_compiled_fit(self, name, way):
        """So it is in the compiled step."""
        model = held(name, way)
        model.compile(model.optimizer, "mse", jit_compile=BACKEND != "torch")
        model.optimizer.build(model.weights)
        train(model)
        assert_head_has_not_begun(model, name)

    @pytest.mark.selected("multiplier", "trainable")
    @pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has graphs without XLA")
    @pytest.mark.parametrize("way", ["multiplier", "rate", "trainable", "schedule"])
    def test_in_a_graph_without_xla(self, way):
        """So it is where TensorFlow runs a graph as it stands."""
        model = held("adam", way)
        model.compile(model.optimizer, "mse", jit_compile=False)
        train(model)
        assert_head_has_not_begun(model, "adam")

    @pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
    def test_weight_decay_is_held_too(self, jit):
        """Decay would move a weight without any gradient."""
        optimizer = fg.PerWeight(
            OPTIMIZERS["adamw"](weight_decay=0.5),
            [fg.Rule("head", trainable=False, weight_decay=0.9)],
        )
        model = train(compiled(optimizer, jit=jit))
        for start, now in zip(values(mlp().weights)[2:], values(model.weights)[2:], strict=True):
            np.testing.assert_array_equal(start, now)

    def test_the_last_rule_for_the_rate_decides(self):
        """A rule of multiplier 0 that a later one overrides holds nothing, and the reverse."""
        weights = variables(a=[0.0], b=[0.0])
        rules = [
            fg.Rule(".", learning_rate_multiplier=0),
            fg.Rule("a", learning_rate_multiplier=2.0),
        ]
        apply(fg.PerWeight(optimizers.SGD(0.5), rules), weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [-1.0, 0.0]
        weights = variables(a=[0.0], b=[0.0])
        apply(fg.PerWeight(optimizers.SGD(0.5), rules[::-1]), weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [0.0, 0.0]

    def test_trainable_and_rate_hold_each_by_itself(self):
        """`trainable=True` does not release what a multiplier of 0 holds."""
        weights = variables(a=[0.0], b=[0.0])
        rules = [
            fg.Rule(".", trainable=False),
            fg.Rule("a", learning_rate_multiplier=0),
            fg.Rule(".", trainable=True, name="on"),
        ]
        optimizer = fg.PerWeight(optimizers.SGD(0.5), rules)
        apply(optimizer, weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [0.0, -0.5]
        optimizer.set("on", trainable=False)
        optimizer.set("a", learning_rate_multiplier=1.0)
        apply(optimizer, weights, [[1.0], [1.0]])
        assert [float(v[0]) for v in values(weights)] == [0.0, -0.5]

    @pytest.mark.full
    def test_all_weights_at_once(self):
        """A whole model may be held: steps count, and nothing moves."""
        model = held("adam", "trainable")
        model.compile(
            fg.PerWeight(OPTIMIZERS["adam"](), [fg.Rule(".", trainable=False)]),
            "mse",
            jit_compile=JIT,
        )
        train(model)
        assert_bit_equal(model, mlp())
        assert int(model.optimizer.iterations) == 4


def assert_bit_equal_part(model, other, part):
    """The weights of one layer agree to the last bit."""
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        if part in mine.path:
            np.testing.assert_array_equal(*values([mine, theirs]), err_msg=mine.path, strict=True)


BAD = {"large": 1e30, "nan": np.nan, "infinite": np.inf, "minus infinite": -np.inf}


class TestGradientsOfHeldWeights:
    @pytest.mark.parametrize("bad", BAD)
    @pytest.mark.parametrize("way", WAYS)
    def test_stay_out_of_the_global_norm(self, way, bad):
        """(3, 0) and (0, 4) have norm 5, whatever the held weight's gradient."""
        weights = variables(left=[0.0, 0.0], right=[0.0, 0.0], head=[1.0, 2.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0, global_clipnorm=1.0), [fg.Rule("head", **WAYS[way])]
        )
        apply(optimizer, weights, [[3.0, 0.0], [0.0, 4.0], [BAD[bad], 1.0]])
        left, right, head = values(weights)
        np.testing.assert_allclose([left, right], [[-0.6, 0], [0, -0.8]], rtol=1e-6)
        assert head.tolist() == [1.0, 2.0]

    @pytest.mark.selected("nan")
    @pytest.mark.parametrize("bad", BAD)
    def test_stay_out_of_the_global_norm_in_compiled_fit(self, bad):
        """So it is in the compiled step, where only the program knows what is held."""
        results = []
        for head in (1.0, BAD[bad]):
            model = towers(fg.PerWeight(OPTIMIZERS["sgd"](global_clipnorm=0.1), HOLD_HEAD))
            start = values(model.weights)
            x = [X, head * np.ones_like(X)]
            model.fit(x, Y[:, :1], batch_size=4, shuffle=False, verbose=0)
            results.append(values(model.weights))
        for one, other in zip(*results, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_array_equal(one, other)
        # The loss has the mean of a batch as gradient, which is clipped to norm 0.1.
        slopes = X.reshape(4, 4, 3).mean(axis=1)
        norms = np.linalg.norm(slopes, axis=1, keepdims=True)
        way = -LEARNING_RATE * (slopes * np.minimum(0.1 / norms, 1)).sum(axis=0)
        np.testing.assert_allclose(results[0][0] - start[0], way[:, None], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(results[0][1], start[1])

    @pytest.mark.parametrize("policy", ["skip", "raise"])
    @pytest.mark.parametrize("way", WAYS)
    def test_are_not_checked(self, way, policy):
        """A gradient that is not finite drops no step where its weight is held."""
        weights = variables(body=[0.0], head=[1.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(0.5, momentum=0.5), [fg.Rule("head", **WAYS[way])], nonfinite=policy
        )
        apply(optimizer, weights, [[1.0], [np.nan]])
        assert [float(v[0]) for v in values(weights)] == [-0.5, 1.0]
        assert optimizer.skipped_steps == 0
        assert optimizer.nonfinite_weights == {}
        assert int(optimizer.iterations) == 1

    def test_are_checked_when_released(self):
        """Once it moves its gradient counts, and no longer when it is held again."""
        weights = variables(body=[0.0], head=[1.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(0.5), [fg.Rule("head", trainable=False)], nonfinite="skip"
        )
        for trainable, skipped in [(False, 0), (True, 1), (False, 1), (True, 2)]:
            optimizer.set("head", trainable=trainable)
            apply(optimizer, weights, [[1.0], [np.inf]])
            assert optimizer.skipped_steps == skipped
        assert [float(v[0]) for v in values(weights)] == [-1.0, 1.0]
        assert optimizer.nonfinite_weights == {"head": 2}

    def test_are_not_checked_in_compiled_fit(self):
        """So it is in the compiled step; released in the middle, they are."""
        optimizer = fg.PerWeight(OPTIMIZERS["sgd"](), HOLD_HEAD, nonfinite="skip")
        model = towers(optimizer)

        class Release(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.model.optimizer.set("head", trainable=epoch == 1)

        start = values(model.weights)
        x, y = [X, np.nan * X], Y[:, :1]
        model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[Release()])
        assert optimizer.skipped_steps == 4
        assert int(optimizer.iterations) == 8
        assert optimizer.nonfinite_weights == {"head/kernel": 4}
        body, head = values(model.weights)
        np.testing.assert_array_equal(head, start[1])
        assert np.isfinite(body).all()
        assert not np.array_equal(body, start[0])

    @pytest.mark.parametrize("way", ["trainable", "multiplier"])
    def test_are_not_accumulated(self, way):
        """What came while a weight was held is gone when it is released."""
        weights = variables(body=[0.0], head=[0.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0, gradient_accumulation_steps=2), [fg.Rule("head", **WAYS[way])]
        )
        apply(optimizer, weights, [[1.0], [np.nan]])
        RELEASES[way](optimizer)
        apply(optimizer, weights, [[1.0], [4.0]])
        # Its mean is over both calls, of which the first counts as 0.
        assert [float(v[0]) for v in values(weights)] == [-1.0, -2.0]

    def test_accumulated_before_the_hold(self):
        """Held between two calls of one step, what the first one left stays out of the norm."""
        weights = variables(body=[0.0], head=[0.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0, gradient_accumulation_steps=2, global_clipnorm=1.0),
            [fg.Rule("head", trainable=True)],
        )
        apply(optimizer, weights, [[0.5], [30.0]])
        optimizer.set("head", trainable=False)
        apply(optimizer, weights, [[0.5], [30.0]])
        assert [float(v[0]) for v in values(weights)] == [-0.5, 0.0]

    def test_transforms_see_zeros(self):
        """A transform over all weights of a rule gets nothing from those that are held."""
        weights = variables(body=[0.0, 0.0], head=[1.0])
        optimizer = fg.PerWeight(
            optimizers.SGD(1.0),
            [
                fg.Rule(".", gradient=fg.gradients.ClipNorm(1.0, per="rule")),
                fg.Rule("head", trainable=False),
            ],
        )
        apply(optimizer, weights, [[3.0, 4.0], [np.nan]])
        body, head = values(weights)
        np.testing.assert_allclose(body, [-0.6, -0.8], rtol=1e-6)
        assert head.tolist() == [1.0]


HOLD_HEAD = [fg.Rule("head", trainable=False)]


def towers(optimizer):
    """Two towers, compiled."""
    model = two_towers()
    model.compile(optimizer, mean_output, jit_compile=JIT)
    return model


class ReleaseAt(keras.callbacks.Callback):
    """Releases the head as an epoch begins, and keeps what the optimizer held then."""

    def __init__(self, epoch, release):
        super().__init__()
        self.epoch = epoch
        self.release = release
        self.stored = {}
        self.weights = []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            optimizer = self.model.optimizer
            optimizer = getattr(optimizer, "inner_optimizer", optimizer)
            self.stored = state(optimizer)
            self.weights = values(self.model.weights)
            self.release(optimizer)


class TestRelease:
    @pytest.mark.selected(
        "sgd_momentum-multiplier",
        "adam-trainable-by-multiplier",
        "adafactor-rate",
        "nadam-trainable",
        "schedule_free_adamw-multiplier",
    )
    @pytest.mark.parametrize("way", [*RELEASES, RELEASE_OF_TRAINABLE_BY_MULTIPLIER])
    @every_optimizer
    def test_as_an_optimizer_that_begins_then(self, name, way):
        """Slots and step counts start from zero: the head learns as under a new optimizer."""
        by_multiplier = way == RELEASE_OF_TRAINABLE_BY_MULTIPLIER
        model, alone = held(name, "trainable" if by_multiplier else way), mlp()
        encoder, head = OPTIMIZERS[name](), OPTIMIZERS[name]()
        for step, gradients in enumerate(random_gradients(model.weights, 5)):
            if step == 2:
                RELEASES["multiplier" if by_multiplier else way](model.optimizer)
            model.optimizer.apply(gradients, model.weights)
            encoder.apply(gradients[:2], alone.weights[:2])
            if step >= 2:
                head.apply(gradients[2:], alone.weights[2:])
        assert_moved(model)
        assert_bit_equal(model, alone)
        assert state(model.optimizer)["encoder|bias:step:iterations"] == 5
        assert state(model.optimizer)["head|bias:step:iterations"] == 3

    @pytest.mark.parametrize("way", ["multiplier", "trainable"])
    def test_held_and_released_again(self, way):
        """A pause leaves no trace: the steps before and after it are as without."""
        model, plain = held("adam", way), mlp()
        alone = OPTIMIZERS["adam"]()
        for step, gradients in enumerate(random_gradients(model.weights, 6)):
            if step in (1, 4):
                RELEASES[way](model.optimizer)
            if step == 3:
                if way == "multiplier":
                    model.optimizer.set("head", learning_rate_multiplier=0)
                else:
                    model.optimizer.set("head", trainable=False)
            model.optimizer.apply(gradients, model.weights)
            if step in (1, 2, 4, 5):
                alone.apply(gradients[2:], plain.weights[2:])
        assert_moved(model)
        assert_bit_equal_part(model, plain, "head")

    @pytest.mark.selected("adam-trainable-by-multiplier")
    @pytest.mark.parametrize(
        ("name", "way"),
        [
            ("sgd_momentum", "multiplier"),
            ("adam", RELEASE_OF_TRAINABLE_BY_MULTIPLIER),
            ("ftrl", "rate"),
            ("schedule_free_adamw", "trainable"),
        ],
    )
    def test_in_compiled_fit(self, name, way):
        """Released at the second epoch, the head begins there; the rest goes on.

        Another run begins with the head released, and with the first one's weights and state.
        """
        by_multiplier = way == RELEASE_OF_TRAINABLE_BY_MULTIPLIER
        model = held(name, "trainable" if by_multiplier else way)
        model.compile(model.optimizer, "mse", jit_compile=JIT)
        model.optimizer.build(model.weights)
        callback = ReleaseAt(1, RELEASES["multiplier" if by_multiplier else way])
        train(model, epochs=2, callbacks=[callback])
        new = held(name, "multiplier")
        new.optimizer.build(new.weights)
        assert_same(of_head(callback.stored), of_head(state(new.optimizer)))
        assert_moved(model)
        assert state(model.optimizer)["encoder|bias:step:iterations"] == 8
        assert state(model.optimizer)["head|bias:step:iterations"] == 4
        again = held(name, "trainable" if by_multiplier else way)
        again.optimizer.build(again.weights)
        again.compile(again.optimizer, "mse", jit_compile=JIT)
        again.set_weights(callback.weights)
        again.optimizer.load_own_variables(callback.stored)
        callback.release(again.optimizer)
        assert_bit_equal(train(again), model)

    @pytest.mark.full
    @pytest.mark.parametrize("way", ["rate", RELEASE_OF_TRAINABLE_BY_MULTIPLIER])
    def test_the_whole_model_in_compiled_fit(self, way):
        """An epoch that is held changes nothing in the epoch that comes after it."""
        by_multiplier = way == RELEASE_OF_TRAINABLE_BY_MULTIPLIER
        way = "trainable" if by_multiplier else way

        def run(epoch, epochs):
            rule = fg.Rule("encoder|head", **WAYS[way], name="head")
            model = compiled(fg.PerWeight(OPTIMIZERS["adam"](), [rule]), jit=True)
            release = RELEASES["multiplier" if by_multiplier else way]
            return train(model, epochs=epochs, callbacks=[ReleaseAt(epoch, release)])

        model = run(1, 2)
        assert_moved(model)
        assert_bit_equal(model, run(0, 1))

    def test_a_multiplier_releases_at_its_own_rate(self):
        """A rule of `trainable=False` only, released by a multiplier, learns at rate × it."""
        model = unit_slope_model()
        optimizer = fg.PerWeight(optimizers.SGD(0.5), [fg.Rule("bias", trainable=False)])
        model.compile(optimizer, mean_output, jit_compile=JIT)
        ones = np.ones((4, 1), "float32")
        model.fit(ones, ones, verbose=0)
        optimizer.set("bias", learning_rate_multiplier=0.25)
        model.fit(ones, ones, verbose=0)
        assert [float(v.reshape(())) for v in values(model.weights)] == [-1.0, -0.125]
        optimizer.set("bias", learning_rate_multiplier=0)
        model.fit(ones, ones, verbose=0)
        assert [float(v.reshape(())) for v in values(model.weights)] == [-1.5, -0.125]

    @pytest.mark.selected("multiplier", "trainable")
    @pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
    @pytest.mark.parametrize("way", [*RELEASES, RELEASE_OF_TRAINABLE_BY_MULTIPLIER])
    def test_compiles_nothing(self, way):
        """The model is traced in the first step only."""
        traces = []

        class Traced(layers.Layer):
            def call(self, x):
                traces.append(x)
                return x

        by_multiplier = way == RELEASE_OF_TRAINABLE_BY_MULTIPLIER
        way = "trainable" if by_multiplier else way
        model = keras.Sequential([*unit_slope_model().layers, Traced()])
        rule = fg.Rule("bias", **WAYS[way], name="head")
        model.compile(
            fg.PerWeight(optimizers.SGD(LEARNING_RATE), [rule]), mean_output, jit_compile=True
        )
        after_first_step = []

        class Change(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 0:
                    after_first_step.append(len(traces))
                if batch == 1:
                    RELEASES["multiplier" if by_multiplier else way](self.model.optimizer)

        ones = np.ones((4, 1), "float32")
        model.fit(ones, ones, batch_size=1, verbose=0, callbacks=[Change()])
        kernel, bias = (float(v.reshape(())) for v in values(model.weights))
        np.testing.assert_allclose([kernel, bias], [-4 * 0.05, -2 * 0.05], rtol=1e-6)
        assert len(traces) == after_first_step[0]

    def test_with_accumulation(self):
        """Released between two steps, the head takes the mean of the calls from then on."""
        arguments = {"gradient_accumulation_steps": 2}
        model, alone = held("sgd_momentum", "trainable", **arguments), mlp()
        encoder, head = (OPTIMIZERS["sgd_momentum"](**arguments) for _ in range(2))
        for call, gradients in enumerate(random_gradients(model.weights, 4)):
            if call == 2:
                model.optimizer.set("head", trainable=True)
            model.optimizer.apply(gradients, model.weights)
            encoder.apply(gradients[:2], alone.weights[:2])
            if call >= 2:
                head.apply(gradients[2:], alone.weights[2:])
        assert_moved(model)
        assert_bit_equal(model, alone)

    @pytest.mark.full
    def test_with_accumulation_in_compiled_fit(self):
        """The same through `fit`: nothing of the head's accumulates while it is held."""
        model = held("adam", "trainable", gradient_accumulation_steps=2)
        model.compile(model.optimizer, "mse", jit_compile=JIT)
        callback = ReleaseAt(1, RELEASES["trainable"])
        model.fit(X[:12], Y[:12], batch_size=4, epochs=2, verbose=0, callbacks=[callback])
        assert not callback.stored["head|kernel:accumulated_gradients"].any()
        assert callback.stored["encoder|kernel:accumulated_gradients"].any()
        for start, now in zip(values(mlp().weights)[2:], callback.weights[2:], strict=True):
            np.testing.assert_array_equal(start, now)
        assert_moved(model)

    @pytest.mark.full
    def test_with_loss_scaling(self):
        """In mixed precision the head stays bit-still, and begins when it is released."""
        keras.config.set_dtype_policy("mixed_float16")
        optimizer = fg.PerWeight(OPTIMIZERS["adam"](), HOLD_HEAD)
        model = mlp()
        # Keras's own first scale overflows for some steps, as many as the gradients are large.
        scaled = optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**7)
        model.compile(scaled, "mse", jit_compile=JIT)
        callback = ReleaseAt(1, RELEASES["trainable"])
        train(model, epochs=2, callbacks=[callback])
        for start, now in zip(values(mlp().weights)[2:], callback.weights[2:], strict=True):
            np.testing.assert_array_equal(start, now)
        assert not callback.stored["head|kernel:momentums"].any()
        assert callback.stored["head|kernel:step:iterations"] == 0
        assert callback.stored["encoder|kernel:step:iterations"] == 4
        assert state(optimizer)["head|kernel:step:iterations"] == 4
        assert_moved(model)


class TestConstraints:
    def model(self, optimizer, jit):
        """`mlp()` whose kernels should have columns of norm 1, which they do not begin with."""
        inputs = keras.Input((3,))
        hidden = layers.Dense(4, kernel_constraint="unit_norm", name="encoder")(inputs)
        outputs = layers.Dense(2, kernel_constraint="unit_norm", name="head")(hidden)
        model = keras.Model(inputs, outputs)
        fill(model)
        return compiled(optimizer, model, jit=jit)

    @pytest.mark.selected("multiplier-eager", "trainable-and-multiplier-compiled")
    @pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
    @pytest.mark.parametrize("way", WAYS)
    def test_do_not_move_what_is_held(self, way, jit):
        """A constraint would move a weight that has no step to correct."""
        optimizer = fg.PerWeight(OPTIMIZERS["sgd"](), [fg.Rule("head", **WAYS[way])])
        model = train(self.model(optimizer, jit))
        encoder, _, head, _ = values(model.weights)
        np.testing.assert_allclose(np.square(encoder).sum(axis=0), 1, rtol=1e-5)
        np.testing.assert_array_equal(head, values(mlp().weights)[2])

    @pytest.mark.selected("skip")
    @pytest.mark.parametrize("policy", ["propagate", "skip"])
    def test_hold_again_after_the_release(self, policy):
        """Released, the weight is constrained; held once more, it stays."""
        optimizer = fg.PerWeight(OPTIMIZERS["sgd"](), HOLD_HEAD, nonfinite=policy)
        model = self.model(optimizer, jit=True)
        train(model)
        optimizer.set("head", trainable=True)
        train(model)
        head = values(model.weights)[2]
        np.testing.assert_allclose(np.square(head).sum(axis=0), 1, rtol=1e-5)
        optimizer.set("head", trainable=False)
        train(model)
        np.testing.assert_array_equal(values(model.weights)[2], head)


class TestAverages:
    def test_the_average_of_a_held_weight(self):
        """At the end of `fit` averages take the weights' place: a held weight's is itself."""
        start = drawn.generator(1).normal(size=1000).astype("float32")
        weights = variables(body=[1.0], head=start)
        sgd = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.99)
        optimizer = fg.PerWeight(sgd, HOLD_HEAD)
        for _ in range(3):
            apply(optimizer, weights, [[1.0], np.ones(1000)])
        optimizer.finalize_variable_values(weights)
        np.testing.assert_array_equal(values(weights)[1], start)


class TestMultiplierOne:
    """A rule whose multiplier is 1 changes nothing about the step; it holds if it says so."""

    def test_set_to_zero(self):
        """An error that names the cure, and nothing is changed."""
        optimizer = fg.PerWeight(
            OPTIMIZERS["adam"](), [fg.Rule("head", learning_rate_multiplier=1)]
        )
        with pytest.raises(ValueError, match=r"make the rule with `trainable=True`\. Received"):
            optimizer.set("head", learning_rate_multiplier=0)
        assert_bit_equal(push(compiled(optimizer)), push(compiled(OPTIMIZERS["adam"]())))
        optimizer.set("head", learning_rate_multiplier=0.5)

    @pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
    def test_set_to_zero_with_trainable(self, jit):
        """Weights, slots and step counts stay from then on, and go on when it is 1 again."""
        rules = [fg.Rule("head", learning_rate_multiplier=1.0, trainable=True)]
        model = compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules), jit=jit)
        train(model)
        before, stored = values(model.weights), of_head(state(model.optimizer))
        model.optimizer.set("head", learning_rate_multiplier=0)
        train(model)
        assert_same(of_head(state(model.optimizer)), stored)
        still = [np.array_equal(*p) for p in zip(before, values(model.weights), strict=True)]
        assert still == [False, False, True, True]
        model.optimizer.set("head", learning_rate_multiplier=1.0)
        train(model)
        assert state(model.optimizer)["head|kernel:step:iterations"] == 8
        assert not any(map(np.array_equal, before, values(model.weights)))


class TestResumeWhileHeld:
    @pytest.mark.full
    @pytest.mark.parametrize("name", ["adam", "nadam"])
    def test_released_after_loading(self, name, tmp_path):
        """A file written while the head is held goes on, held and then released, bit for bit."""
        rules = [fg.Rule("head", trainable=False)]
        model = train(compiled(fg.PerWeight(OPTIMIZERS[name](), rules), jit=True))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_same(state(loaded.optimizer), state(model.optimizer))
        for one in (model, loaded):
            train(one)
            for start, now in zip(values(mlp().weights)[2:], values(one.weights)[2:], strict=True):
                np.testing.assert_array_equal(start, now)
            one.optimizer.set("head", trainable=True)
            train(one)
        assert_moved(model)
        assert_bit_equal(loaded, model)
        assert_same(state(loaded.optimizer), state(model.optimizer))

    def test_what_was_changed_is_in_the_file(self, tmp_path):
        """Held or released at run time, a model loads as it was saved."""
        rules = [
            fg.Rule("encoder", learning_rate_multiplier=1.0, trainable=True),
            fg.Rule("head", trainable=False),
        ]
        model = train(compiled(fg.PerWeight(OPTIMIZERS["adam"](), rules)))
        model.optimizer.set("encoder", learning_rate_multiplier=0)
        model.optimizer.set("head", trainable=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        before = values(loaded.weights)
        train(loaded)
        moved = [not np.array_equal(*p) for p in zip(before, values(loaded.weights), strict=True)]
        assert moved == [False, False, True, True]
        assert_bit_equal(loaded, train(model))

    def test_under_rules_that_hold_nothing(self, tmp_path):
        """Weights whose rule is gone begin with slots of zero; the encoder's go on."""
        held_run = train(compiled(fg.PerWeight(OPTIMIZERS["sgd_momentum"](), HOLD_HEAD)))
        held_run.save_weights(tmp_path / "held.weights.h5")
        free = compiled(fg.PerWeight(OPTIMIZERS["sgd_momentum"]()))
        free.optimizer.build(free.weights)
        free.load_weights(tmp_path / "held.weights.h5")
        held_run.optimizer.set("head", trainable=True)
        assert_bit_equal(train(free), train(held_run))
        assert_moved(free)
