"""Classifiers of keras.applications, as small as their code allows, and the roles of their weights."""

# ruff: noqa: E501 (a line of a table is one line)

from collections.abc import Callable
from functools import partial

import keras

SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
"""Images smaller than this do not get through; 32 pixels are enough for all others."""


def classifier(name: str) -> keras.Model:
    """Build one for three classes, with the names of a fresh Keras."""
    keras.utils.clear_session(free_memory=False)
    side = SMALLEST.get(name, 32)
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(side, side, 3), classes=3)


PREDICTIONS = """
    kernel+head  predictions/kernel
    bias+head    predictions/bias
    """

STEM_AND_TOP = """
    convolution  (stem|top)_conv/kernel
    norm         (stem|top)_bn/(gamma|beta)
    """

APPLICATION_ROLES: dict[str, str] = {
    "ConvNeXtTiny": """
    convolution  convnext_tiny_stem/convnext_tiny_stem_conv/kernel
    bias         convnext_tiny_stem/convnext_tiny_stem_conv/bias
    norm         convnext_tiny_stem/convnext_tiny_stem_layernorm/(gamma|beta)
    convolution  convnext_tiny_stage_#_block_#_depthwise_conv/kernel
    bias         convnext_tiny_stage_#_block_#_depthwise_conv/bias
    norm         convnext_tiny_stage_#_block_#_layernorm/(gamma|beta)
    kernel       convnext_tiny_stage_#_block_#_pointwise_conv_#/kernel -- a Dense, whatever its name says
    bias         convnext_tiny_stage_#_block_#_pointwise_conv_#/bias
    norm         convnext_tiny_stage_#_block_#_layer_scale/variable(_#)? -- LayerScale
    convolution  convnext_tiny_downsampling_block_#/convnext_tiny_downsampling_conv_#/kernel
    bias         convnext_tiny_downsampling_block_#/convnext_tiny_downsampling_conv_#/bias
    norm         convnext_tiny_downsampling_block_#/convnext_tiny_downsampling_layernorm_#/(gamma|beta)
    norm         convnext_tiny_head_layernorm/(gamma|beta) -- in front of the head, by its name in it
    kernel+head  convnext_tiny_head_dense/kernel
    bias+head    convnext_tiny_head_dense/bias
    """,
    "DenseNet121": """
    convolution  conv#_(conv|block#_#_conv)/kernel
    norm         conv#_(bn|block#_#_bn)/(gamma|beta)
    convolution  pool#_conv/kernel
    norm         (pool#_)?bn/(gamma|beta)
    """
    + PREDICTIONS,
    "EfficientNetB0": STEM_AND_TOP
    + """
    convolution  block#[a-d]_(expand_conv|dwconv|se_reduce|se_expand|project_conv)/kernel
    bias         block#[a-d]_(se_reduce|se_expand)/bias
    norm         block#[a-d]_((expand|project)_)?bn/(gamma|beta)
    """
    + PREDICTIONS,
    "EfficientNetV2B0": STEM_AND_TOP
    + """
    convolution  block#[a-h]_(expand_conv|dwconv2|se_reduce|se_expand|project_conv)/kernel
    bias         block#[a-h]_(se_reduce|se_expand)/bias
    norm         block#[a-h]_((expand|project)_)?bn/(gamma|beta)
    """
    + PREDICTIONS,
    "InceptionResNetV2": """
    convolution  (conv2d(_#)?|conv_7b|block#_#_conv)/kernel
    bias         block#_#_conv/bias
    norm         (batch_normalization(_#)?|conv_7b_bn)/beta
    """
    + PREDICTIONS,
    "InceptionV3": """
    convolution  conv2d(_#)?/kernel
    norm         batch_normalization(_#)?/beta
    """
    + PREDICTIONS,
    "MobileNet": """
    convolution  (conv1|conv_(dw|pw)_#)/kernel
    norm         (conv1|conv_(dw|pw)_#)_bn/(gamma|beta)
    convolution+head  conv_preds/kernel -- the classifier is a convolution of one pixel
    bias+head    conv_preds/bias
    """,
    "MobileNetV2": """
    convolution  (Conv1|Conv_1|(expanded_conv|block_#)_(expand|depthwise|project))/kernel
    norm         (bn_Conv1|Conv_1_bn|(expanded_conv|block_#)_(expand|depthwise|project)_BN)/(gamma|beta)
    """
    + PREDICTIONS,
    "MobileNetV3Small": """
    convolution  conv(_#)?/kernel
    bias         conv_2/bias
    norm         conv(_1)?_bn/(gamma|beta)
    convolution  expanded_conv(_#)?_(expand|depthwise|project|squeeze_excite_conv(_#)?)/kernel
    bias         expanded_conv(_#)?_squeeze_excite_conv(_#)?/bias
    norm         expanded_conv(_#)?_(expand|depthwise|project)_bn/(gamma|beta)
    convolution+head  logits/kernel -- the classifier is a convolution of one pixel
    bias+head    logits/bias
    """,
    "NASNetMobile": """
    convolution  stem_conv1/kernel
    norm         stem_bn1/(gamma|beta)
    convolution  [A-Za-z0-9_/]+/(normal|reduction|adjust)_conv_[a-z0-9_]+/kernel
    convolution  [A-Za-z0-9_/]+/separable_conv_#_(normal|reduction)_[a-z0-9_]+/(depthwise|pointwise)_kernel
    norm         [A-Za-z0-9_/]+/((normal|reduction|adjust)_bn|separable_conv_#_bn)_[a-z0-9_]+/(gamma|beta)
    """
    + PREDICTIONS,
    "ResNet50": """
    convolution  conv#_(conv|block#_#_conv)/kernel
    bias         conv#_(conv|block#_#_conv)/bias
    norm         conv#_(bn|block#_#_bn)/(gamma|beta)
    """
    + PREDICTIONS,
    "ResNet50V2": """
    convolution  conv#_(conv|block#_#_conv)/kernel
    bias         conv#_(conv|block#_[03]_conv)/bias
    norm         (conv#_block#_(#|preact)|post)_bn/(gamma|beta)
    """
    + PREDICTIONS,
    "VGG16": """
    convolution  block#_conv#/kernel
    bias         block#_conv#/bias
    kernel       fc#/kernel -- by some accounts of the head, too: it comes with `include_top`
    bias         fc#/bias
    """
    + PREDICTIONS,
    "Xception": """
    convolution  (block#_conv#|conv2d(_#)?)/kernel
    convolution  block#_sepconv#/(depthwise|pointwise)_kernel
    norm         (block#_(conv|sepconv)#_bn|batch_normalization(_#)?)/(gamma|beta)
    """
    + PREDICTIONS,
}

APPLICATIONS: dict[str, Callable[[], keras.Model]] = {
    name: partial(classifier, name)
    for name in APPLICATION_ROLES
    # Keras does not build it with PyTorch.
    if not (name == "NASNetMobile" and keras.backend.backend() == "torch")
}
