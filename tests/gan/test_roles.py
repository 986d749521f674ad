"""Who gets noise, samples and labels: in order or by name, and labels that are one network's."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import drawn
import finegrain as fg
from covering import chosen
from gan.games import LABELS, LATENT, X, networks
from gan.test_variants import train
from routing.differentiate import arrays

MORE = (X[:, :1] > 1.5).astype("float32")


SHAPES = {
    "noise": (LATENT,),
    "rough": (LATENT,),
    "fine": (2, 2),
    "kind": (),
    "side": (1,),
    "point": (2,),
    "size": (1,),
}


def dense(names, outputs):
    """A model of named inputs, `kind` one-hot, and of one output or of named ones."""
    inputs = {
        name: keras.Input(SHAPES[name], name=name, dtype="int32" if name == "kind" else None)
        for name in names
    }
    parts = [ops.one_hot(one, 3) if name == "kind" else one for name, one in inputs.items()]
    parts = [layers.Flatten()(part) for part in parts]
    hidden = layers.Dense(4, "tanh")(layers.Concatenate()(parts) if len(parts) > 1 else parts[0])
    made = {name: layers.Dense(units)(hidden) for name, units in outputs.items()}
    return keras.Model(inputs, made if len(made) > 1 else next(iter(made.values())))


def named_networks():
    """One generator, one discriminator, with noise, a label and a sample by name."""
    generator = dense(["kind", "noise"], {"point": 2})
    discriminator = dense(["point", "kind"], {"score": 1})
    return generator, discriminator


def test_named_inputs_are_those_in_order():
    """The same networks with a dict and with a list have the same gradients and samples."""
    found = []
    for is_named in (True, False):
        drawn.seed_keras(1)
        generator, discriminator = named_networks()
        if not is_named:
            of, to = generator.input, discriminator.input
            generator = keras.Model([of["noise"], of["kind"]], generator.output)
            discriminator = keras.Model([to["point"], to["kind"]], discriminator.output)
        gan = fg.models.GAN(generator, discriminator, "relativistic", penalties=["r1", "wgan_gp"])
        gan.random.state.assign([1, 2])
        made = gan.generate(3, seed=drawn.seed(1), labels=[0, 1, 2])
        gan.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        before = arrays(gan.trainable_variables)
        gan.train_on_batch(*(({"point": X, "kind": LABELS},) if is_named else (X, LABELS)))
        after = arrays(gan.trainable_variables)
        found.append([made, *(new - old for new, old in zip(after, before, strict=True))])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert sum(np.any(one) for one in found[0]) > 6


@pytest.mark.parametrize(
    "data",
    [({"point": X, "kind": LABELS},), (X, LABELS), ({"point": X}, LABELS)],
    ids=["one", "two", "both"],
)
@pytest.mark.full
def test_named_data_in_any_form(data):
    train(fg.models.GAN(*named_networks(), "non_saturating"), *data)


@pytest.mark.parametrize("compiled", chosen([False, True], [True]))
def test_several_of_each(compiled, tmp_path):
    """Two kinds of noise, of labels and of samples, with penalties, an average and a file."""
    generator = dense(["rough", "fine", "kind", "side"], {"point": 2, "size": 1})
    discriminator = dense(["side", "size", "kind", "point"], {"score": 1})
    gan = fg.models.GAN(
        generator,
        discriminator,
        "non_saturating",
        penalties=["r1", "wgan_gp"],
        ema_momentum=0.5,
        seed=drawn.seed(3),
    )
    assert gan.latent_dim == {"rough": (LATENT,), "fine": (2, 2)}
    data = {"point": X, "size": X[:, :1], "kind": LABELS, "side": MORE}
    if compiled:
        train(gan, data)
    else:
        gan.compile("adam", run_eagerly=True)
        gan.train_on_batch(data)
    labels = {"kind": [0, 1, 2], "side": MORE[:3]}
    made = gan.generate(3, seed=drawn.seed(1), labels=labels)
    assert {name: part.shape for name, part in made.items()} == {"point": (3, 2), "size": (3, 1)}
    assert gan.predict(data, verbose=0).shape == (16, 1)
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    for name, part in again.generate(3, seed=drawn.seed(1), labels=labels).items():
        np.testing.assert_array_equal(part, made[name])
    with pytest.raises(ValueError, match=r"dict of \['kind', 'side'\]"):
        gan.generate(3, labels=[0, 1, 2])
    with pytest.raises(ValueError, match=r"labels should have .* Received: \['kind'\]"):
        gan.generate(3, labels={"kind": [0, 1, 2]})
    with pytest.raises(ValueError, match="label for each of 3 samples"):
        gan.generate(3, labels={"kind": [0, 1], "side": MORE[:3]})
    with pytest.raises(ValueError, match=r"The data should have .* Received: "):
        gan.train_on_batch({"point": X, "kind": LABELS, "side": MORE})


@keras.saving.register_keras_serializable("tests")
def kinds_too(real, fake, labels):
    (real_score, real_kind), (fake_score, _) = real, fake
    kinds = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return ops.mean(ops.softplus(-real_score) + ops.softplus(fake_score)) + kinds(labels, real_kind)


@keras.saving.register_keras_serializable("tests")
def asked_for(fake, labels):
    kinds = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return ops.mean(ops.softplus(-fake[0])) + kinds(labels, fake[1])


@pytest.mark.parametrize("is_named", chosen([False, True], [False]))
def test_labels_of_the_generator_alone(is_named, tmp_path):
    """AC-GAN: the discriminator says what the label is, and is not told."""
    generator = dense(["noise", "kind"], {"point": 2})
    sample = keras.Input((2,), name="point")
    hidden = layers.Dense(4, "tanh")(sample)
    heads = [layers.Dense(1)(hidden), layers.Dense(3)(hidden)]
    discriminator = keras.Model({"point": sample} if is_named else sample, heads)
    latent = {"noise": LATENT} if is_named else None
    if not is_named:
        of = generator.input
        generator = keras.Model([of["noise"], of["kind"]], generator.output)
    gan = fg.models.GAN(
        generator, discriminator, (kinds_too, asked_for), latent_dim=latent, penalties=["r1"]
    )
    train(gan, X, LABELS)
    made = gan.generate(3, seed=drawn.seed(1), labels=[0, 1, 2])
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    np.testing.assert_array_equal(again.generate(3, seed=drawn.seed(1), labels=[0, 1, 2]), made)
    with pytest.raises(ValueError, match=r"fit on \(samples, labels\)"):
        gan.train_on_batch(X)
    if is_named:
        gan.train_on_batch({"point": X, "kind": LABELS})
        return
    assert [part.shape for part in gan.predict(X, verbose=0)] == [(16, 1), (16, 3)]
    with pytest.raises(ValueError, match="discriminator takes samples alone"):
        gan.predict((X, LABELS), verbose=0)


@pytest.mark.one_backend
def test_what_does_not_fit():
    generator, discriminator = named_networks()
    plain_generator, plain = networks()
    with pytest.raises(ValueError, match="Nobody asks the generator"):
        fg.models.GAN(generator, plain, latent_dim={"noise": LATENT})
    inputs = [keras.Input((2,)), keras.Input(())]
    two = keras.Model(inputs, layers.Dense(1)(inputs[0]))
    with pytest.raises(ValueError, match="Nobody asks the generator"):
        fg.models.GAN(generator, dense(["point"], {"score": 1}), latent_dim={"noise": LATENT})
    with pytest.raises(ValueError, match="cannot make samples of them"):
        fg.models.GAN(plain_generator, two)
    with pytest.raises(ValueError, match="should take noise"):
        fg.models.GAN(discriminator, discriminator)
    with pytest.raises(ValueError, match="should take samples"):
        fg.models.GAN(generator, dense(["kind"], {"score": 1}))
    with pytest.raises(ValueError, match=r"should be of inputs of the generator, .*'z'"):
        fg.models.GAN(generator, discriminator, latent_dim={"z": 3})
    with pytest.raises(ValueError, match=r"inputs of the generator, .*Received: latent_dim={}"):
        fg.models.GAN(generator, discriminator, latent_dim={})
    with pytest.raises(ValueError, match="`latent_dim` should be 3"):
        fg.models.GAN(generator, discriminator, latent_dim={"noise": 4})
    with pytest.raises(ValueError, match="make samples as the discriminator takes them"):
        fg.models.GAN(dense(["kind", "noise"], {"point": 3}), discriminator)
    with pytest.raises(ValueError, match="The generator's output should have"):
        fg.models.GAN(generator, dense(["point", "size", "kind"], {"score": 1}))


def test_a_generator_that_makes_more():
    """Of its outputs those count that the discriminator takes."""
    generator = dense(["noise", "kind"], {"more": 1, "point": 2})
    gan = fg.models.GAN(generator, named_networks()[1], "non_saturating")
    gan.compile("adam", run_eagerly=True)
    gan.train_on_batch({"point": X, "kind": LABELS})
    assert gan.generate(3, labels=[0, 1, 2]).shape == (3, 2)


class Written(keras.Model):
    """A network of somebody's own, which says what it takes when it has its weights."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def build(self, input_shape):
        samples, _ = input_shape
        self.dense.build((None, samples[-1] + 3))

    def call(self, inputs):
        samples, kind = inputs
        return self.dense(ops.concatenate([samples, ops.one_hot(kind, 3)], axis=-1))


def test_networks_that_are_built_late():
    """What they take is unknown before, and checked after."""
    gan = fg.models.GAN(Written(2), Written(1), "non_saturating", latent_dim=LATENT)
    gan.compile("adam", run_eagerly=True)
    # Keras tells the shape of `x` alone.
    with pytest.raises(
        ValueError, match=r"generator cannot be built for samples alone.* as a pair"
    ):
        gan.train_on_batch(X, LABELS)
    gan.compile("adam", run_eagerly=True)
    gan.train_on_batch((X, LABELS))
    assert gan.generate(3, labels=[0, 1, 2]).shape == (3, 2)
    with pytest.raises(ValueError, match="take labels, too"):
        gan.generate(3)
    with pytest.raises(ValueError, match="take labels, too"):
        gan.train_on_batch(X)
