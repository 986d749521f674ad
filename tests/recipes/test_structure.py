"""Levels from the structure of models: blocks in layers, towers, stages; names do not decide."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import finegrain as fg

pytestmark = pytest.mark.one_backend


class Block(layers.Layer):
    def __init__(self, width=4):
        super().__init__()
        self.dense = layers.Dense(width)
        self.norm = layers.LayerNormalization()

    def call(self, x):
        return self.norm(x + self.dense(x))


class Attending(layers.Layer):
    """A decoder's block: it holds two attentions, which are no blocks."""

    def __init__(self):
        super().__init__()
        self.own = layers.MultiHeadAttention(1, 4)
        self.other = layers.MultiHeadAttention(1, 4)
        self.block = Block()

    def call(self, x):
        return self.block(self.other(self.own(x, x), x))


class Experts(layers.Layer):
    """A block with experts in a list, beside an attention."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(1, 4)
        self.experts = [Block() for _ in range(3)]

    def call(self, x):
        x = self.attention(x, x)
        return sum(expert(x) for expert in self.experts)


class Encoder(layers.Layer):
    """Blocks in a layer, which has a weight of its own."""

    def __init__(self, depth=3, block=Block):
        super().__init__()
        self.blocks = [block() for _ in range(depth)]
        self.norm = layers.LayerNormalization()

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 4), name="token")

    def call(self, x):
        x = x + self.token
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Tower(keras.Model):
    def __init__(self, depth=3):
        super().__init__()
        self.embedding = layers.Embedding(9, 4)
        self.blocks = [Block() for _ in range(depth)]
        self.norm = layers.LayerNormalization()

    def call(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def depths(model):
    """The depth of each weight below the output, by its path, read from the rules."""
    rows = fg.PerWeight("sgd", fg.layer_decay(model, 0.5)).describe(model).to_dicts()
    return {row["path"]: round(-np.log2(row["learning_rate_multiplier"])) for row in rows}


def of_layers(model, *wanted):
    """The depths of the weights of each of `wanted`, which have one each."""
    found = depths(model)
    result = []
    for layer in wanted:
        (depth,) = {found[weight.path] for weight in layer.trainable_weights}
        result.append(depth)
    return result


@pytest.mark.parametrize("block", [Block, Attending, Experts])
def test_blocks_in_a_layer(block):
    """They are levels, as those of a model are; a weight of the encoder itself comes before."""
    inputs = keras.Input((3, 4))
    first, encoder, head = layers.Dense(4), Encoder(3, block), layers.Dense(2)
    model = keras.Model(inputs, head(encoder(first(inputs))))
    assert of_layers(model, first, *encoder.blocks, encoder.norm, head) == [4, 3, 2, 1, 0, 0]
    assert depths(model)[encoder.token.path] == 4


def test_blocks_in_a_layer_in_a_layer():
    class Wrapper(layers.Layer):
        def __init__(self):
            super().__init__()
            self.encoder = Encoder(2)

        def call(self, x):
            return self.encoder(x)

    inputs = keras.Input((3, 4))
    wrapper, head = Wrapper(), layers.Dense(2)
    model = keras.Model(inputs, head(wrapper(inputs)))
    assert of_layers(model, *wrapper.encoder.blocks, head) == [2, 1, 0]


@pytest.mark.parametrize("kind", ["tensors", "attributes"])
def test_two_towers(kind):
    """Each is counted from its end, whether tensors or attributes show it."""
    high, low, head = Tower(3), Tower(2), layers.Dense(2)
    if kind == "tensors":
        left, right = (keras.Input((3,), dtype="int32") for _ in range(2))
        outputs = head(layers.Concatenate()([high(left), low(right)]))
        model = keras.Model([left, right], outputs)
    else:

        class Two(keras.Model):
            def __init__(self):
                super().__init__()
                self.high, self.low, self.head = high, low, head

            def call(self, x):
                return self.head(ops.concatenate([self.high(x), self.low(x)], -1))

        model = Two()
        model(np.ones((1, 3), "int32"))
    assert of_layers(model, high.embedding, *high.blocks, high.norm) == [4, 3, 2, 1, 0]
    assert of_layers(model, low.embedding, *low.blocks, low.norm, head) == [3, 2, 1, 0, 0]


def test_an_encoder_with_a_decoder():
    """The decoder's blocks all take what the encoder puts out: it is one chain."""

    class Decoding(layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(1, 4)

        def call(self, x, memory):
            return self.attention(x, memory)

    source, target = (keras.Input((3,), dtype="int32") for _ in range(2))
    shared = layers.Embedding(9, 4)
    encoding, decoding = [Block() for _ in range(2)], [Decoding() for _ in range(2)]
    memory, x = shared(source), shared(target)
    for block in encoding:
        memory = block(memory)
    for block in decoding:
        x = block(x, memory)
    head = layers.Dense(2)
    model = keras.Model([source, target], head(x))
    assert of_layers(model, shared, *encoding, *decoding, head) == [5, 4, 3, 2, 1, 0]


def test_a_single_block():
    """As in a pretrained encoder cut off after its first: a layer that holds an attention."""
    inputs = keras.Input((3, 4))
    first, norm, block = layers.Dense(4), layers.LayerNormalization(), Attending()
    head = layers.Dense(2)
    model = keras.Model(inputs, head(block(norm(first(inputs)))))
    assert of_layers(model, first, norm, block, head) == [2, 2, 1, 0]


def test_a_block_that_is_called_twice():
    """It is one level, where it comes first."""
    inputs = keras.Input((3, 4))
    first, second, head = Block(), Block(), layers.Dense(2)
    model = keras.Model(inputs, head(second(second(first(first(inputs))))))
    assert of_layers(model, first, second, head) == [2, 1, 0]


def test_names_do_not_decide():
    """A model made again, or with other names, has the same levels."""
    seen = []
    for _ in range(3):
        inputs = keras.Input((3,), dtype="int32")
        tower, head = Tower(2), layers.Dense(2)
        model = keras.Model(inputs, head(tower(inputs)))
        seen.append(list(depths(model).values()))
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[0]) == {0, 1, 2, 3}


def test_blocks_that_take_turns():
    """Two classes of blocks, of which none follows its like."""

    class Other(Block):
        pass

    inputs = keras.Input((3, 4))
    before = [layers.Dense(4), layers.LayerNormalization()]  # one level, if there are blocks
    x = before[1](before[0](inputs))
    blocks = [Block(), Other(), Block(), Other()]
    for block in blocks:
        x = block(x)
    head = layers.Dense(2)
    found = of_layers(keras.Model(inputs, head(x)), *before, *blocks, head)
    assert found == [5, 5, 4, 3, 2, 1, 0]


def test_patches_between_stages_join_the_next_block():
    """As in hierarchical transformers: layers of one class that follow no other of it directly."""

    class Merge(Block):
        pass

    inputs = x = keras.Input((3, 4))
    parts = [Merge(), Block(), Block(), Merge(), Block()]
    for part in parts:
        x = part(x)
    head = layers.Dense(2)
    assert of_layers(keras.Model(inputs, head(x)), *parts, head) == [4, 3, 2, 1, 1, 0]


def test_stages_of_blocks_are_entered():
    """As in Swin transformers: a layer that holds hardly anything but a row."""

    class Stage(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = Block(), Block()

        def call(self, x):
            return self.second(self.first(x))

    inputs = keras.Input((3, 4))
    stages, head = [Stage(), Stage()], layers.Dense(2)
    model = keras.Model(inputs, head(stages[1](stages[0](inputs))))
    blocks = [block for stage in stages for block in (stage.first, stage.second)]
    assert of_layers(model, *blocks, head) == [4, 3, 2, 1, 0]


def test_two_models_of_other_layers_are_no_blocks():
    """Plain models are blocks of a row only if they hold the same layers."""
    body = keras.Sequential([layers.Dense(4), layers.LayerNormalization()])
    head = keras.Sequential([layers.Dense(4), layers.Dense(2)])
    model = keras.Sequential([keras.Input((4,)), body, head])
    wanted = [*body.layers, *head.layers]
    assert of_layers(model, *wanted) == [3, 2, 1, 0]


class TestImages:
    """A level for each resolution."""

    def test_a_chain(self):
        maps = [layers.Conv2D(4, 3, strides=s, padding="same") for s in (1, 1, 2, 1, 2)]
        norm, hidden, head = layers.BatchNormalization(), layers.Dense(4), layers.Dense(2)
        model = keras.Sequential(
            [keras.Input((16, 16, 3)), *maps, norm, layers.Flatten(), hidden, head]
        )
        assert of_layers(model, *maps, norm, hidden, head) == [3, 3, 2, 2, 1, 1, 0, 0]

    @pytest.mark.parametrize("size", [16, None])
    def test_residual_blocks_keep_together(self, size):
        """Before its stride a block works at the old resolution, and belongs to the new stage."""
        inputs = keras.Input((size, size, 3))
        stem = layers.Conv2D(4, 3, strides=2, padding="same")
        x, blocks = stem(inputs), []
        for stride in (1, 2):
            narrow = layers.Conv2D(4, 1)
            wide = layers.Conv2D(4, 3, strides=stride, padding="same")
            short = layers.Conv2D(4, 1, strides=stride)
            x = layers.Add()([wide(narrow(x)), short(x)])
            blocks.append((narrow, wide, short))
        head = layers.Dense(2)
        model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))
        assert of_layers(model, stem, *blocks[0], *blocks[1], head) == [2, 2, 2, 2, 1, 1, 1, 0]

    def test_squeeze_and_excitation(self):
        """What is computed from a pooled map belongs to the map that it scales."""
        inputs = keras.Input((16, 16, 4))
        first = layers.Conv2D(4, 3, strides=2, padding="same")
        reduce, expand = layers.Conv2D(2, 1), layers.Conv2D(4, 1)
        last, head = layers.Conv2D(4, 3, strides=2), layers.Dense(2)
        x = first(inputs)
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.Multiply()([x, expand(reduce(pooled))])
        x = layers.GlobalAveragePooling2D()(last(x))
        model = keras.Model(inputs, head(x))
        assert of_layers(model, first, reduce, expand, last, head) == [2, 2, 2, 1, 0]

    def test_the_border_of_a_convolution_is_no_stage(self):
        maps = [layers.Conv2D(4, 3) for _ in range(3)]
        down, head = layers.Conv2D(4, 3, strides=2), layers.Dense(2)
        model = keras.Sequential(
            [keras.Input((16, 16, 3)), *maps, down, layers.GlobalAveragePooling2D(), head]
        )
        assert of_layers(model, *maps, down, head) == [2, 2, 2, 1, 0]

    def test_written_as_a_class(self):
        """Strides tell, where no tensors do; dense layers behind them are the output level."""

        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.first = layers.Conv2D(4, 3, strides=2)
                self.second = layers.Conv2D(4, 3)
                self.third = layers.Conv2D(4, 3, strides=2)
                self.pool = layers.GlobalAveragePooling2D()
                self.head = layers.Dense(2)

            def call(self, x):
                return self.head(self.pool(self.third(self.second(self.first(x)))))

        model = Net()
        model(np.ones((1, 32, 32, 3), "float32"))
        wanted = [model.first, model.second, model.third, model.head]
        assert of_layers(model, *wanted) == [2, 2, 1, 0]

    def test_normalization_of_the_input_is_no_level(self):
        """It has weights that nobody trains."""
        first, head = layers.Conv2D(4, 3, strides=2), layers.Dense(2)
        norm = layers.Normalization(mean=[0.0] * 3, variance=[1.0] * 3)
        learned = layers.Normalization()
        learned.build((None, 16, 16, 3))
        model = keras.Sequential(
            [keras.Input((16, 16, 3)), norm, learned, first, layers.Flatten(), head]
        )
        assert of_layers(model, first, head) == [1, 0]

    def test_blocks_at_one_resolution_are_levels(self):
        """As in a ViT that keeps its patches in a grid."""
        inputs = keras.Input((16, 16, 4))
        patches, blocks, head = layers.Conv2D(4, 4, strides=4), [Block(), Block()], layers.Dense(2)
        x = patches(inputs)
        for block in blocks:
            x = block(x)
        model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))
        assert of_layers(model, patches, *blocks, head) == [3, 2, 1, 0]
