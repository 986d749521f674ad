"""Small models of what backbones and classifiers lack, and the roles of their weights."""

# ruff: noqa: E501 (a line of a table is one line)

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

import finegrain as fg
from recipes.backbones import BACKBONES

EXTRA_MODELS: dict[str, Callable[[], keras.Model]] = {}
EXTRA_ROLES: dict[str, str] = {}


def extra(roles: str) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    """List a builder and the roles of what it builds, in a fresh Keras, under its name."""

    def listed(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        def anew() -> keras.Model:
            keras.utils.clear_session(free_memory=False)
            with warnings.catch_warnings():
                # `quantize` warns of each layer that stays as it is.
                warnings.simplefilter("ignore", UserWarning)
                return build()

        EXTRA_MODELS[build.__name__] = anew
        EXTRA_ROLES[build.__name__] = roles
        return build

    return listed


def classifier() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 4, name="tokens"),
            layers.EinsumDense("abc,cd->abd", output_shape=(5, 4), bias_axes="d", name="mix"),
            layers.Conv1D(4, 3, name="window"),
            layers.Flatten(),
            layers.Dense(3, name="classes"),
        ],
        name="classifier",
    )


def enable_lora(model: keras.Model, *names: str) -> None:
    for name in names:
        model.get_layer(name).enable_lora(2)


@extra("""
    embedding    classifier/tokens/embeddings
    kernel       classifier/mix/kernel
    bias         classifier/mix/bias
    convolution  classifier/window/kernel
    bias         classifier/window/bias
    kernel+head  classifier/classes/kernel
    bias+head    classifier/classes/bias
    """)
def plain():
    return classifier()


@extra("""
    lora_a       classifier/tokens/lora_embeddings_a -- a row for each token
    lora_b       classifier/tokens/lora_embeddings_b
    lora_a       classifier/(mix|window)/lora_kernel_a
    lora_b       classifier/(mix|window)/lora_kernel_b
    bias         classifier/(mix|window)/bias -- which LoRA does not hold
    kernel+head  classifier/classes/kernel
    bias+head    classifier/classes/bias
    """)
def lora():
    model = classifier()
    enable_lora(model, "tokens", "mix", "window")
    return model


@extra("""
    lora_a       classifier/tokens/lora_embeddings_a
    lora_b       classifier/tokens/lora_embeddings_b
    lora_a       classifier/(mix|window)/lora_kernel_a
    lora_b       classifier/(mix|window)/lora_kernel_b
    bias         classifier/(mix|window)/bias
    lora_a+head  classifier/classes/lora_kernel_a
    lora_b+head  classifier/classes/lora_kernel_b
    bias+head    classifier/classes/bias
    """)
def lora_in_the_head():
    model = classifier()
    enable_lora(model, "tokens", "mix", "window", "classes")
    return model


@extra("""
    bias         classifier/(mix|window)/bias
    convolution  classifier/window/kernel -- convolutions cannot be quantized
    bias+head    classifier/classes/bias -- all that learns: int8 does not
    """)
def int8():
    model = classifier()
    model.quantize("int8")
    return model


@extra("""
    lora_a       classifier/tokens/lora_embeddings_a
    lora_b       classifier/tokens/lora_embeddings_b
    lora_a       classifier/mix/lora_kernel_a
    lora_b       classifier/mix/lora_kernel_b
    convolution  classifier/window/kernel
    bias         classifier/(mix|window)/bias
    lora_a+head  classifier/classes/lora_kernel_a
    lora_b+head  classifier/classes/lora_kernel_b
    bias+head    classifier/classes/bias
    """)
def int8_with_lora():
    model = classifier()
    model.quantize("int8")
    enable_lora(model, "tokens", "mix", "classes")
    return model


def backbone_with_lora(name: str, quantized: bool = False) -> keras.Model:
    model: Any = BACKBONES[name]()
    if quantized:
        model.quantize("int8")
    model.enable_lora(2)
    return model


BERT_LORA = """
    lora_a     transformer_layer_#/self_attention_layer/(query|value)/lora_kernel_a
    lora_b     transformer_layer_#/self_attention_layer/(query|value)/lora_kernel_b
    bias       transformer_layer_#/self_attention_layer/(query|value)/bias -- KerasHub holds all else
    """


@extra(BERT_LORA)
def bert_lora():
    return backbone_with_lora("bert")


@extra(BERT_LORA)
def bert_int8_lora():
    return backbone_with_lora("bert", quantized=True)


@extra("""
    lora_a     decoder_block_#/attention/(query|value)/lora_kernel_a
    lora_b     decoder_block_#/attention/(query|value)/lora_kernel_b
    """)
def gemma_lora():
    return backbone_with_lora("gemma")


@extra("""
    embedding  position_embedding/embeddings -- only the tables of tokens and segments can be quantized
    norm       embeddings_layer_norm/(gamma|beta)
    bias       transformer_layer_#/self_attention_layer/(query|key|value|attention_output)/bias
    norm       transformer_layer_#/(self_attention|feedforward)_layer_norm/(gamma|beta)
    bias       transformer_layer_#/feedforward_(intermediate|output)_dense/bias
    bias       pooled_dense/bias
    """)
def bert_int8():
    model: Any = BACKBONES["bert"]()
    model.quantize("int8")
    return model


@extra("""
    kernel       recurrent/lstm/lstm_cell/kernel
    recurrent    recurrent/lstm/lstm_cell/recurrent_kernel
    bias         recurrent/lstm/lstm_cell/bias
    kernel       recurrent/bidirectional/(for|back)ward_gru/gru_cell/kernel
    recurrent    recurrent/bidirectional/(for|back)ward_gru/gru_cell/recurrent_kernel
    bias         recurrent/bidirectional/(for|back)ward_gru/gru_cell/bias -- two rows: of the input, of the state
    kernel       recurrent/simple_rnn/simple_rnn_cell/kernel
    recurrent    recurrent/simple_rnn/simple_rnn_cell/recurrent_kernel
    bias         recurrent/simple_rnn/simple_rnn_cell/bias
    kernel       recurrent/time_distributed/dense/kernel
    bias         recurrent/time_distributed/dense/bias
    kernel       recurrent/rnn/stacked_rnn_cells/(lstm|gru)_cell/kernel
    recurrent    recurrent/rnn/stacked_rnn_cells/(lstm|gru)_cell/recurrent_kernel
    bias         recurrent/rnn/stacked_rnn_cells/(lstm|gru)_cell/bias
    """)
def recurrent():
    cells = layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(2)])
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.LSTM(3, return_sequences=True),
            layers.Bidirectional(layers.GRU(3, return_sequences=True)),
            layers.SimpleRNN(2, return_sequences=True),
            layers.TimeDistributed(layers.Dense(2)),
            layers.RNN(cells),
        ],
        name="recurrent",
    )


@extra("""
    convolution  video/conv_lstm1d/conv_lstm_cell/kernel
    recurrent    video/conv_lstm1d/conv_lstm_cell/recurrent_kernel -- a convolution, too
    bias         video/conv_lstm1d/conv_lstm_cell/bias
    """)
def convolutional_lstm():
    return keras.Sequential([keras.Input((3, 5, 2)), layers.ConvLSTM1D(2, 3)], name="video")


@extra("""
    kernel     (multi_head|grouped_query)_attention/(query|key|value|attention_output)/kernel
    bias       (multi_head|grouped_query)_attention/(query|key|value|attention_output)/bias
    other      attention/(scale|concat_score_weight) -- a temperature, and the scale of a score
    other      additive_attention/scale -- what makes a score of a vector; one could see a kernel in it
    """)
def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 2)(inputs, inputs)
    x = layers.GroupQueryAttention(2, 2, 1)(x, x)
    x = layers.Attention(use_scale=True, score_mode="concat")([x, x])
    return keras.Model(inputs, layers.AdditiveAttention()([x, x]))


@extra("""
    convolution  convolutions/separable_conv1d/(depth|point)wise_kernel
    convolution  convolutions/(depthwise_conv1d|conv1d_transpose|spectral_normalization/conv1d)/kernel
    bias         convolutions/(separable_conv1d|depthwise_conv1d|conv1d_transpose|spectral_normalization/conv1d)/bias
    other        convolutions/p_re_lu/alpha -- the slope of an activation
    """)
def convolutions():
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.SeparableConv1D(4, 3),
            layers.DepthwiseConv1D(3),
            layers.Conv1DTranspose(4, 3),
            layers.PReLU(),
            layers.SpectralNormalization(layers.Conv1D(3, 1)),
        ],
        name="convolutions",
    )


@extra("""
    norm       norms/(batch|layer|group)_normalization/(gamma|beta)
    norm       norms/rms_normalization/scale
    """)
def norms():
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.BatchNormalization(),
            layers.LayerNormalization(),
            layers.GroupNormalization(2),
            layers.RMSNormalization(),
            layers.UnitNormalization(),
        ],
        name="norms",
    )


def language_model(tied: bool) -> keras.Model:
    tokens = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(7, 4, tie_weights=tied, name="tokens")
    x = layers.Dense(4, name="hidden")(embedding(tokens))
    return keras.Model(tokens, embedding(x, reverse=True))


@extra("""
    embedding  tokens/embeddings -- also what makes the logits
    kernel     hidden/kernel
    bias       hidden/bias
    """)
def tied_embeddings():
    return language_model(tied=True)


@extra("""
    embedding       tokens/embeddings
    embedding+head  tokens/reverse_embeddings -- the output embedding: head, though in the layer of the input's
    kernel          hidden/kernel
    bias            hidden/bias
    """)
def untied_embeddings():
    return language_model(tied=False)


@extra("""
    embedding         characters/embeddings
    kernel            encoder/forward_lstm/lstm_cell/kernel
    kernel            encoder/backward_lstm/lstm_cell/kernel
    recurrent         encoder/(for|back)ward_lstm/lstm_cell/recurrent_kernel
    bias              encoder/(for|back)ward_lstm/lstm_cell/bias
    kernel+head       tags/kernel
    bias+head         tags/bias
    transitions+head  tags/(transitions|start|end)
    """)
def crf_tagger():
    characters = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, name="characters")(characters)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="encoder")(x)
    return keras.Model(characters, fg.layers.CRF(3, name="tags")(x))
