"""Games: each loss moves the weights that it is for, by the gradient that it has by itself."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from compiling import XLA
from covering import chosen
from game.games import GAMES, LABELS, X, Y, adversarial, make, mean_square, network
from routing.differentiate import array, arrays, differentiate


def data(name):
    return (X,) if name == "quantized" else (X, LABELS if name == "adversarial" else Y)


def separate(game, x, y=None):
    """The gradient of each weight: that of its own losses, one backward pass for each loss."""
    names = list(game.reach.selectors)
    variables = game.trainable_variables
    reach = game.reach.of(variables)
    total = [np.zeros(variable.shape) for variable in variables]
    for name in names:

        def loss(x, name=name):
            networks = {**game.networks, **game.averages}
            given = {**networks, "x": x, **({} if y is None else {"y": ops.convert_to_tensor(y)})}
            return game.losses_function(**given)[name]

        result = differentiate(loss, x, [game])
        for index in reach[name]:
            total[index] = total[index] + result.weights[index]
    return total


def step(game, x, y=None, compiled=False):
    def loss(x):
        return game.compute_loss(x, y, None, training=True)

    return differentiate(loss, x, [game], compiled=compiled)


@pytest.mark.parametrize("name", chosen(GAMES, ["adversarial", "actor_critic", "quantized"]))
def test_gradients_are_those_of_separate_passes(name):
    """One forward pass gives each weight what the losses that reach it have for it."""
    drawn.seed_keras(1)
    game = make(name)
    expected = separate(game, *data(name))
    found = step(game, *data(name)).weights
    assert all(gradient.any() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


@pytest.mark.full
@pytest.mark.parametrize("name", GAMES)
def test_trains_saves_and_goes_on(name, tmp_path):
    """Two epochs, or one, a file and another: the same; each loss is reported."""
    drawn.seed_keras(1)
    game = make(name, seed=drawn.seed(2))
    rule = fg.Rule(next(iter(game.networks.values())), learning_rate_multiplier=0.5)
    rules = [] if name == "distillation" else [rule]
    weights = {next(iter(game.reach.selectors)): 2.0}
    game.compile(
        fg.PerWeight(keras.optimizers.Adam(0.01), rules), weights, jit_compile=XLA or "auto"
    )
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0}
    history = game.fit(*data(name), **arguments).history
    assert set(history) == {"loss", *game.reach.selectors}
    game.save(tmp_path / "game.keras")
    expected = game.fit(*data(name), **arguments).history, arrays(game.weights)
    again = keras.models.load_model(tmp_path / "game.keras")
    assert again.fit(*data(name), **arguments).history == expected[0]
    for mine, other in zip(arrays(again.weights), expected[1], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert int(again.steps) == 6


def test_total_is_the_weighted_sum():
    """The reported loss counts weights and regularizers; a weight of 0 stops a loss."""
    kernel = {"kernel_regularizer": keras.regularizers.L2(0.5)}
    features = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh", **kernel)])
    networks = {
        "features": features,
        "digit": network(4, 1, "digit"),
        "domain": network(4, 1, "domain"),
    }
    reach = {"digit": ["features", "digit"], "domain": "domain", "hide": "features"}
    game = fg.models.Game(networks, adversarial, reach)
    game.compile("sgd", {"hide": 0.0, "domain": 3.0}, run_eagerly=True)
    before = arrays(game.trainable_variables)
    logs = game.evaluate(X, LABELS, batch_size=12, return_dict=True, verbose=0)
    on_kernel = 0.5 * (before[0] ** 2).sum()
    assert logs["loss"] == pytest.approx(logs["digit"] + 3 * logs["domain"] + on_kernel, rel=1e-5)
    found = step(game, X, LABELS)
    assert float(found.value) == pytest.approx(logs["loss"], rel=1e-5)
    alone = fg.models.Game(networks, adversarial, {**reach, "hide": "features"})
    alone.compile("sgd", {"hide": 0.0})
    expected = separate(fg.models.Game(networks, adversarial, reach), X, LABELS)
    np.testing.assert_allclose(found.weights[-1], 3 * expected[-1], rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_and_seeds(compiled):
    """Networks that train know it; what they update is updated once by each call."""
    body = keras.Sequential(
        [
            keras.Input((3,)),
            layers.BatchNormalization(momentum=0.5),
            layers.Dropout(0.5, seed=drawn.seed(1)),
            layers.Dense(1),
        ]
    )
    game = fg.models.Game(
        {"body": body},
        lambda body, x: {"body": mean_square(body(x)), "other": ops.sum(body(x))},
        {"body": "body", "other": "body"},
    )
    normal, dropout = body.layers[:2]
    state = array(dropout.seed_generator.state).copy()
    step(game, X, compiled=compiled and bool(XLA))
    np.testing.assert_allclose(array(normal.moving_mean), 0.75 * X.mean(0), rtol=1e-5, atol=1e-7)
    assert not np.array_equal(array(dropout.seed_generator.state), state)
    mean = array(normal.moving_mean).copy()
    game.compile("sgd", run_eagerly=True)
    one, other = (game.test_on_batch(X, return_dict=True) for _ in range(2))
    assert one == other  # no dropout, no statistics of the batch
    np.testing.assert_array_equal(array(normal.moving_mean), mean)


def test_an_average_follows():
    """A target network is the average of its source's past, and no loss reaches it."""
    drawn.seed_keras(1)
    game = make("actor_critic")
    game.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    expected = arrays(game.networks["critic"].weights)
    for _ in range(3):
        game.train_on_batch(X, Y)
        now = arrays(game.networks["critic"].weights)
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, now, strict=True)]
    inputs = np.ones((2, 5), "float32")
    found = game.predict(inputs, "target", verbose=0)
    for weight, value in zip(game.networks["critic"].weights, expected, strict=True):
        weight.assign(value)
    np.testing.assert_allclose(found, array(game.networks["critic"](inputs)), rtol=1e-5, atol=1e-6)


def test_a_frozen_network_has_no_loss():
    """By default there is a loss for each network that can learn."""
    teacher, student = network(3, 1, "teacher"), network(3, 1, "student")
    teacher.trainable = False

    def losses(teacher, student, x):
        return {"student": mean_square(student(x) - teacher(x))}

    game = fg.models.Game({"teacher": teacher, "student": student}, losses)
    found = step(game, X).weights
    assert list(game.reach.selectors) == ["student"]
    assert len(found) == len(student.trainable_variables)
    assert all(gradient.any() for gradient in found)
    with pytest.raises(ValueError, match=r"none of the networks has weights .*\['teacher'\]"):
        fg.models.Game({"teacher": teacher}, lambda x: {})


@pytest.mark.full
def test_selectors_reach_parts():
    """A loss may move a layer, what an expression finds, or what a function picks."""
    drawn.seed_keras(1)
    networks = {"body": network(3, 4, "body"), "head": network(4, 1, "head")}
    kernel = networks["body"].layers[0].kernel
    game = fg.models.Game(
        networks,
        lambda body, head, x, y: {
            "near": mean_square(head(body(x)) - y),
            "small": mean_square(body(x)),
        },
        {"near": ["head", networks["body"].layers[1], "bias$"], "small": lambda v: v is kernel},
    )
    found = step(game, X, LABELS).weights
    expected = separate(game, X, LABELS)
    assert all(gradient.any() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.full
def test_turns():
    """A batch moves one side; slots rest; a saved game goes on with whose turn it is."""
    drawn.seed_keras(1)
    game = make("cycle", turns=[["translate"], ["judge", "judge_back"]])
    game.compile(keras.optimizers.Adam(0.01), jit_compile=XLA or "auto")
    sides = [[*range(8)], [*range(8, 16)]]
    twins = [keras.optimizers.Adam(0.01) for _ in sides]
    variables = game.trainable_variables
    for twin, side in zip(twins, sides, strict=True):
        twin.build([variables[i] for i in side])
    start = arrays(variables)
    for _ in range(4):
        game.train_on_batch(X, Y)
    expected = arrays(variables)
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    alone = fg.models.Game(game.networks, game.losses_function, game.reach.get_config())
    for turn in (0, 1, 0, 1):
        gradients = separate(alone, X, Y)
        own = [ops.convert_to_tensor(gradients[i].astype("float32")) for i in sides[turn]]
        twins[turn].apply(own, [variables[i] for i in sides[turn]])
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(array(variable), value, rtol=1e-3, atol=1e-5)


@pytest.mark.full
def test_turns_come_back_from_a_file(tmp_path):
    drawn.seed_keras(1)
    game = make("cycle", turns=True)
    game.compile(fg.PerWeight("adam", [fg.Rule("judge", learning_rate_multiplier=0.5)]))
    game.train_on_batch(X, Y)
    game.save(tmp_path / "game.keras")
    again = keras.models.load_model(tmp_path / "game.keras")
    for _ in range(2):
        game.train_on_batch(X, Y)
        again.train_on_batch(X, Y)
    for mine, other in zip(game.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(other), err_msg=mine.path)


def test_predicts_in_the_middle_of_training():
    """Callbacks see the weights as they are, on JAX too, and disturb nothing."""
    ends, found = [], []
    for watched in (False, True):
        drawn.seed_keras(1)
        game = make("cycle")
        game.compile(keras.optimizers.SGD(0.05))
        # It holds the model itself: a callback's `self.model` would fetch the weights.
        watching = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, game=game: found.append(
                game.predict(X, "there", verbose=0)
            )
        )
        callbacks = [watching] if watched else []
        game.fit(X, Y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        ends.append(arrays(game.weights))
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[-1], array(game.networks["there"](X)), rtol=1e-5, atol=1e-6)
    for mine, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(mine, other)


def first_only(x):
    return {"body": ops.sum(x)}


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"networks": {}}, TypeError, "a dict from names to Keras models"),
        ({"networks": {"body": 3}}, TypeError, r"networks\['body'\].*Received: 3"),
        ({"networks": {"x": network(3, 1, "x")}}, ValueError, "none of .*Received: 'x'"),
        (
            {"networks": {"body": keras.Sequential([layers.Dense(1)])}},
            ValueError,
            r"begin it with keras.Input.*Received: \['body'\] without weights",
        ),
        ({"losses": 3}, TypeError, "Received: losses=3"),
        ({"losses": lambda head: {}}, TypeError, "It asks for 'head'; there are"),
        ({"reach": []}, TypeError, "`reach` should be a dict"),
        ({"reach": {"body": 3}}, TypeError, r"`reach\['body'\]` should be the name of a network"),
        ({"reports": ["body"]}, ValueError, "besides losses.*Received: 'body'"),
        ({"averages": {"slow": "body"}}, ValueError, "pairs of a network and a momentum"),
        ({"averages": {"slow": ("body", 1.0)}}, ValueError, r"averages\['slow'\]=1.0"),
        ({"averages": {"body": ("body", 0.5)}}, ValueError, "one of its own"),
        ({"turns": [["tail"]]}, ValueError, r"each loss a turn. Received: turns=\[\['tail'\]\]"),
        ({"turns": 3}, ValueError, "Received: turns=3"),
        ({"combine": 3}, TypeError, "Received: combine=3"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"networks": {"body": network(3, 1, "body")}, "losses": first_only, **change}
    with pytest.raises(error, match=message):
        fg.models.Game(**arguments)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("reach", "message"),
    [
        ({"body": "body"}, "No loss reaches the network 'head'.*`trainable = False`"),
        ({"body": "body", "head": "kernle"}, "The loss 'head' moves nothing.*'kernle'"),
        ({"body": "body", "head": "head/.*kernel"}, "No loss reaches the weight 'head/.*bias'"),
    ],
)
def test_what_no_loss_reaches(reach, message):
    networks = {"body": network(3, 1, "body"), "head": network(3, 1, "head")}
    game = fg.models.Game(networks, lambda x: {}, reach)
    with pytest.raises(ValueError, match=message):
        game.compile("sgd")


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (lambda x: ops.sum(x), TypeError, r"dict of scalars named \['body'\]"),
        (lambda x: {"body": ops.size(x)}, TypeError, "should be a float.*'body' of dtype int"),
        (lambda x: {"tail": ops.sum(x)}, ValueError, r"Received: \['tail'\]"),
        (lambda x: {"body": x}, ValueError, r"a scalar.*Received: 'body' of shape \(12, 3\)"),
    ],
)
def test_wrong_results(losses, error, message):
    game = fg.models.Game({"body": network(3, 1, "body")}, losses)
    game.compile("sgd", run_eagerly=True)
    with pytest.raises(error, match=message):
        game.train_on_batch(X)


def test_wrong_use():
    game = make("cycle")
    for name in ("loss", "metrics", "weighted_metrics"):
        with pytest.raises(ValueError, match=f"leave `{name}` out of `compile`"):
            game.compile("sgd", **{name: "mse"})
    with pytest.raises(ValueError, match=r"should be of \['translate'.*Received: \['tail'\]"):
        game.compile("sgd", {"tail": 1.0})
    with pytest.raises(ValueError, match=r"loss_weights\['judge'\]=-1"):
        game.compile("sgd", {"judge": -1})
    with pytest.raises(ValueError, match=r"`network` should be one of .*Received: network=None"):
        game.predict(X)
