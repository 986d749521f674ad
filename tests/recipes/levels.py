"""How far below the output each weight of a backbone is, as one would write it by hand.

0 is the output: what follows the last block (a norm, a pooler, a projection), or else the last
block. Each block is one further down, and what comes before the first block is last. Where users
differ the tables say `?`, and any depth is right.

The convention is that of BEiT (Bao, Dong, Piao, Wei, "BEiT: BERT Pre-Training of Image
Transformers", 2022, https://arxiv.org/abs/2106.08254); `TIMM` has what timm makes of it.

- Two towers, of images and of text, are counted each from its own end: their last blocks are side
  by side, under the output that they share.
- An encoder is below its decoder, in one chain. What only the decoder reads in (its tokens, its
  positions) and the norm between the two are at `?`.
- In a convolutional network a level is a stage: what works at one resolution. The layer that
  reduces it opens the next stage. What comes before the first such layer is of the first stage.
  Where the reducing layer is inside a block, the block's layers before it are at `?`, and so are
  layers behind the last stage, at its resolution.
- In a hierarchical transformer a level is a block, and what reduces between blocks is at `?`.
"""

# ruff: noqa: E501 (a line of a table is one line)

import keras

from recipes.tables import look_up, places

Depth = int | None


def depths_of(name: str, model: keras.Model) -> dict[str, Depth]:
    """Return the depth of each trainable weight by its path; `None` accepts any.

    Where weights of one path have several depths, as in two towers of unequal height, it is
    `None`, too: see `depths_by_weight`.
    """
    depths: dict[str, Depth] = {}
    for weight, depth in zip(model.trainable_weights, depths_by_weight(name, model), strict=True):
        same = depths.setdefault(weight.path, depth) == depth
        depths[weight.path] = depth if same else None
    return depths


def depths_by_weight(name: str, model: keras.Model) -> list[Depth]:
    """Return the depths in the order of `model.trainable_weights`."""
    return [
        depth(says, match.groupdict().get("number"))
        for says, match in look_up(LEVELS[name], places(model))
    ]


def depth(says: str, number: str | None) -> Depth:
    """Return what "?", "2" or "3-@" says, if the block has that number."""
    if says == "?":
        return None
    start, _, of_block = says.partition("-")
    return int(start) - int(number) if of_block and number else int(start)


# A line says what of "tower:layer:path". `@` is the number of a block.


def tower(bottom: str, block: str, output: str = "", blocks: int = 3) -> str:
    """One chain: what comes before the blocks, the blocks, what comes after them."""
    last = 1 if output else 0
    top = f"0 ({output}):.*" if output else ""
    return f"""
    {last + blocks}  ({bottom}):.*
    {last + blocks - 1}-@  {block}:.*
    {top}
    """


def chain(bottom: str, encoder: str, decoder: str, output: str = "") -> str:
    """Three blocks of an encoder, and on them three of a decoder."""
    last = 1 if output else 0
    top = f"0 ({output}):.*" if output else ""
    return f"""
    {last + 6}  ({bottom}):.*
    {last + 5}-@  {encoder}:.*
    {last + 2}-@  {decoder}:.*
    {top}
    """


BERT = "(token|position|segment)_embedding|embeddings_layer_norm"

DECODER = tower("token_embedding", "transformer_layer_@", "sequence_output_layernorm")

UNTIED = """
    4    token_embedding:token_embedding/embeddings
    3-@  transformer_layer_@:.*
    0    sequence_output_layernorm:.*
    0    token_embedding:token_embedding/reverse_embeddings -- makes the logits, in the layer of the lowest level
    """

GEMMA = tower("token_embedding", "decoder_block_@", "final_normalization")

T5_GEMMA = (
    chain("encoder_token_embedding", "encoder_layer_@", "decoder_layer_@", "rms_normalization_1")
    + """
    ?    decoder_token_embedding:.*
    ?    rms_normalization:.*
    """
)

T5 = """
    7    token_embedding:token_embedding/embeddings
    6-@  transformer_encoder_layer_@:transformer.*
    ?    encoder_output_layer_norm:.*
    3-@  transformer_decoder_layer_@:transformer.*
    0    decoder_output_layer_norm:.*
    ?    transformer_(en|de)coder_layer_0:self_attention/embeddings -- in the first block, used by all
    """

MIT_BLOCKS = """
    6    (functional:)?patch_and_embed_0:.*
    5    (functional:)?hierarchical_encoder_0_0:.*
    4    (functional:)?hierarchical_encoder_0_1:.*
    3    (functional:)?hierarchical_encoder_1_0:.*
    2    (functional:)?hierarchical_encoder_2_0:.*
    1    (functional:)?hierarchical_encoder_2_1:.*
    ?    (functional:)?patch_and_embed_[12]:.*
    ?    (functional:)?layer_normalization_(7|12):.* -- norms of the stages before the last
    """

VIT_DET = """
    4    (vi_t_det_patching_and_embedding|add_positional_embedding):.*
    3    windowed_transformer_encoder:.*
    2    windowed_transformer_encoder_1:.*
    1    windowed_transformer_encoder_2:.*
    0    sequential_3:.* -- the neck, two convolutions
    """


def side(encoder: str, bottom: str, output: str, blocks: int = 3) -> str:
    """One of two towers; its blocks are under the output of both."""
    return tower(
        f"{encoder}:({bottom})", f"{encoder}:encoder_block_@", f"{encoder}:({output})", blocks
    )


CLIP_VISION = side("clip_vision_encoder", "embedding|pre_layer_norm", "layer_norm")
CLIP_JOINT = "0  (vision_projection|text_projection|clip_head):.*"

LEVELS: dict[str, str] = {
    # Two groups of shared weights: two levels, however often each is used.
    "albert": tower(f"{BERT}|embedding_projection", "group_@_inner_layer_0", "pooled_dense", 2),
    "bart": chain(
        "token_embedding|encoder_position_embedding|encoder_embeddings_layer_norm",
        "transformer_encoder_layer_@",
        "transformer_decoder_layer_@",
    )
    + "?  (decoder_position_embedding|decoder_embeddings_layer_norm):.*",
    "bert": tower(BERT, "transformer_layer_@", "pooled_dense"),
    "bloom": tower("token_embedding|embedding_layernorm", "transformer_layer_@", "final_layernorm"),
    "deberta_v3": tower(
        "token_embedding|embeddings_layer_norm|rel_embedding",
        "disentangled_attention_encoder_layer_@",
    ),
    "distil_bert": tower(
        "token_and_position_embedding|embeddings_layer_norm", "transformer_layer_@"
    ),
    "electra": tower(f"{BERT}|embeddings_projection", "transformer_layer_@", "pooled_dense"),
    "esm": tower("token_embedding|emb_layer_norm", "transformer_layer_@", "output_layer_norm"),
    "esm_absolute": tower(
        "token_embedding|position_embedding", "transformer_layer_@", "output_layer_norm"
    ),
    "f_net": tower(f"{BERT}|embedding_projection", "f_net_layer_@", "pooled_dense"),
    "roberta": tower("embeddings|embeddings_layer_norm", "transformer_layer_@"),
    "xlm_roberta": tower("embeddings|embeddings_layer_norm", "transformer_layer_@"),
    "roformer_v2": tower(
        "token_embedding|segment_embedding|embeddings_layer_norm", "transformer_layer_@"
    ),
    "xlnet": tower("encoder_block_attn_mask_layer|content_query_embedding", "xlnet_encoder_@"),
    "t5": T5,
    "t5_untied": T5 + "0 token_embedding:token_embedding/reverse_embeddings",
    "t5_gemma": T5_GEMMA,
    "t5_gemma_2": T5_GEMMA,
    "falcon": tower("token_embedding", "transformer_layer_@", "final_layernorm"),
    "gemma": GEMMA,
    "gemma_2": GEMMA,
    "gemma3": GEMMA,
    "gemma4": GEMMA,
    "gpt2": tower("token_embedding|position_embedding", "transformer_layer_@", "layer_norm"),
    "gpt_neo_x": tower("token_embedding", "transformer_layer_@", "layer_norm"),
    "gpt_oss": UNTIED,
    "llama": UNTIED,
    "llama3": UNTIED,
    "mistral": UNTIED,
    "mixtral": UNTIED,
    "opt": tower("embeddings", "transformer_layer_@", "layer_norm"),
    "phi3": UNTIED,
    "qwen": DECODER,
    "qwen_untied": UNTIED,
    "qwen_moe": UNTIED,
    "qwen3": DECODER,
    "qwen3_moe": UNTIED,
    "qwen3_5": UNTIED,
    "rwkv7": """
    4    token_embedding:.*
    ?    rwkv_layer_0:rwkv_layer_0/init_norm/.* -- of the embeddings, in the first block
    3-@  rwkv_layer_@:rwkv_layer_#/(att_norm|ffn_norm|RWKV_TIME_MIX|RWKV_CMIX)/.*
    0    (output_norm|head):.*
    """,
    "smollm3": DECODER,
    "whisper": chain(
        "encoder_token_embedding_conv_layer_#",
        "transformer_encoder_layer_@",
        "transformer_decoder_layer_@",
        "decoder_layer_norm",
    )
    + "?  (encoder_layer_norm|decoder_token_and_position_embedding):.*",
    "moonshine": chain(
        "conv#|group_norm", "encoder_block_@", "decoder_block_@", "decoder_post_norm"
    )
    + "?  (encoder_final_layer_norm|token_embedding):.*",
    "vit": """
    4    vit_patching_and_embedding:.*
    4-@  vit_encoder:vit_encoder/transformer_block_@/.* -- from 1 to 3
    0    vit_encoder:vit_encoder/ln/.* -- in the layer of the blocks
    """,
    "deit": """
    4    deit_patching_and_embedding:.*
    4-@  deit_encoder:deit_encoder/transformer_block_@/.* -- from 1 to 3
    0    deit_encoder:deit_encoder/ln/.*
    """,
    "dinov2": """
    4    embeddings:.*
    3-@  encoder:encoder/layers_@/.*
    0    layernorm:.*
    """,
    "dinov3": """
    4    embeddings:.*
    3-@  encoder:encoder/layers_@/.*
    0    layernorm:.*
    """,
    "mit": MIT_BLOCKS + "0 layer_normalization_18:.*",
    "segformer": MIT_BLOCKS
    + """
    ?    functional:layer_normalization_18:.* -- the last norm of the encoder, in front of the head
    0    (linear_#|sequential(_#)?):.*
    """,
    "swin_transformer": """
    7    patch_embedding:.*
    6-@  stage_0:stage_0/blocks_@/.*
    4-@  stage_1:stage_1/blocks_@/.*
    2-@  stage_2:stage_2/blocks_@/.*
    ?    stage_[01]:stage_[01]/downsample/.*
    0    norm:.*
    """,
    "vit_det": VIT_DET,
    "sam": VIT_DET + "? sam_prompt_encoder:.* -- of points and boxes, beside the tower",
    "clip": CLIP_VISION + side("clip_text_encoder", "embedding", "layer_norm") + CLIP_JOINT,
    "clip_uneven": CLIP_VISION
    + side("clip_text_encoder", "embedding", "layer_norm", blocks=2)
    + CLIP_JOINT,
    "metaclip_2": """
    4    meta_clip2_vision_encoder:(embedding|pre_layer_norm):.*
    4    meta_clip2_text_encoder:embedding:.*
    3-@  meta_clip2_(vision|text)_encoder:encoder_block_@:.*
    0    meta_clip2_text_encoder:layer_norm:.*
    0    (vision_post_layer_norm|vision_projection|text_projection|metaclip_2_head):.*
    """,
    "siglip": side("sig_lip_vision_encoder", "embedding", "post_layer_norm|head")
    + side("sig_lip_text_encoder", "embedding", "post_layer_norm|head")
    + "0 siglip_head:.*",
    "pali_gemma": GEMMA
    + """
    4    pali_gemma_vit:image_encoder:image_encoder/encoder_embeddings/.*
    3-@  pali_gemma_vit:image_encoder:image_encoder/encoder_block_@/.* -- could be below the decoder: it reads them
    ?    pali_gemma_vit:image_encoder:image_encoder/encoder_layer_norm/.*
    ?    pali_gemma_vit:image_classifier:.*
    """,
    "cspnet": """
    2    csp_stem_(conv|bn)_0:.* -- before the first reduction
    2-@  stage_@_[a-z0-9_]+:.*
    """,
    "densenet": """
    3    conv1_(conv|bn):.*
    3-@  stack@_block#_#_(conv|bn):.*
    3-@  transition@_(conv|bn):.* -- the pool behind them reduces
    ?    bn:.*
    """,
    "efficientnet": """
    2    stem_(conv|bn):.*
    3-@  block@[ab]_(dwconv|dwconv_bn|se_reduce|se_expand|project|project_bn):.*
    3-@  block@b_expand_(conv|bn):.*
    ?    block#a_expand_(conv|bn):.* -- before the convolution that reduces
    ?    top_(conv|bn):.*
    """,
    "efficientnet_v2": """
    2    stem_(conv|bn):.*
    3-@  block@[ab]_:.*
    ?    top_(conv|bn):.*
    """,
    "hgnet_v2": """
    3    embedder:embedder/embedder_stem(1|2a|2b)/.*
    ?    embedder:embedder/embedder_stem[34]/.* -- reduces once more, to what the first stage works at
    2-@  encoder:encoder/encoder_stage_@/.*
    """,
    "mobilenet_v3": """
    3    (input_conv|input_batch_norm):.*
    2-@  block_(?!3)@_#:.*
    ?    block_3_0:.* -- a convolution of one pixel at the end
    """,
    "mobilenet_v5": """
    3    conv_stem:.*
    2    edge_residual:.*
    1    universal_inverted_residual(_1)?:.*
    0    (universal_inverted_residual_2|mobile_attention):.*
    """,
    "resnet": """
    3    conv1_(conv|bn):.*
    2-@  stack@_block1_#_(conv|bn):.*
    2-@  stack@_block0_[023]_(conv|bn):.*
    2    stack0_block0_1_(conv|bn):.* -- the pool before it has reduced already
    ?    stack[12]_block0_1_(conv|bn):.* -- before the convolution that reduces
    """,
    "resnet_v2": """
    3    conv1_conv:.*
    2-@  stack@_block#_#_(conv|bn):.*
    2-@  stack@_block1_pre_activation_bn:.*
    2    stack0_block0_pre_activation_bn:.*
    ?    stack[12]_block0_pre_activation_bn:.* -- before the convolution that reduces
    ?    post_bn:.*
    """,
    "vgg": """
    ?    block1_conv#:.* -- before the first reduction, and yet a block
    3-@  block(?!1)@_conv#:.*
    """,
    "xception": """
    2    block(1_conv|2_sepconv)#(_bn)?:.*
    4-@  block(?!2)@_sepconv#(_bn)?:.*
    ?    block#_residual_(conv|bn):.* -- reduces, beside the block
    """,
    "stable_diffusion_3": "? .* -- texts and noise, a transformer, an image: no one writes it by hand",
    "flux": """
    7    (mlp_embedder(_#)?:dense_#|dense(_#)?):.*
    6    double_stream_block:.*
    5    double_stream_block_1:.*
    4    double_stream_block_2:.*
    3    single_stream_block:.*
    2    single_stream_block_1:.*
    1    single_stream_block_2:.*
    0    last_layer:.*
    """,
}

# What timm 1.0.31 gives a ViT of three blocks (`VisionTransformer(depth=3)`) by
# `timm.optim.param_groups_layer_decay(model, layer_decay=0.75)`, as `lr_scale`. The patterns are
# those of `vit` above. timm's code: https://github.com/huggingface/pytorch-image-models

TIMM: dict[str, float] = {
    "vit_patching_and_embedding/.*": 0.31640625,
    "vit_encoder/transformer_block_1/.*": 0.421875,
    "vit_encoder/transformer_block_2/.*": 0.5625,
    "vit_encoder/transformer_block_3/.*": 0.75,
    "vit_encoder/ln/.*": 0.75,
    "head/.*": 1.0,
}
"""With a head. timm puts the last norm with the last block, BEiT with the head, as `LEVELS` does."""

TIMM_WITHOUT_HEAD: dict[str, float] = {
    "vit_patching_and_embedding/.*": 0.421875,
    "vit_encoder/transformer_block_1/.*": 0.5625,
    "vit_encoder/transformer_block_2/.*": 0.75,
    "vit_encoder/transformer_block_3/.*": 1.0,
    "vit_encoder/ln/.*": 1.0,
}
"""The same with `num_classes=0`."""
