"""The role of each weight of KerasHub's backbones, decided by hand from the code of its layer."""

# ruff: noqa: E501 (a line of a table is one line)

# Parts that many models have.


def encoder_layer(name: str) -> str:
    """KerasHub's own TransformerEncoder."""
    return f"""
    kernel  {name}/self_attention_layer/(query|key|value|attention_output)/kernel
    bias    {name}/self_attention_layer/(query|key|value|attention_output)/bias
    norm    {name}/(self_attention|feedforward)_layer_norm/(gamma|beta)
    kernel  {name}/feedforward_(intermediate|output)_dense/kernel
    bias    {name}/feedforward_(intermediate|output)_dense/bias
    """


def decoder_layer(name: str, attention: str = "self_attention") -> str:
    """KerasHub's own TransformerDecoder."""
    return f"""
    kernel  {name}/{attention}/(query|key|value|attention_output)/kernel
    bias    {name}/{attention}/(query|key|value|attention_output)/bias
    norm    {name}/({attention}|feedforward)_layer_norm/(gamma|beta)
    kernel  {name}/feedforward_(intermediate|output)_dense/kernel
    bias    {name}/feedforward_(intermediate|output)_dense/bias
    """


POOLER = """
    kernel     pooled_dense/kernel
    bias       pooled_dense/bias
    """

BERT_EMBEDDINGS = """
    embedding  (token|position|segment)_embedding/embeddings
    norm       embeddings_layer_norm/(gamma|beta)
    """

TOKEN_AND_POSITION = """
    embedding  (token_and_position_embedding|embeddings)/(token|position)_embedding/embeddings
    """

ROBERTA = (
    TOKEN_AND_POSITION
    + "norm embeddings_layer_norm/(gamma|beta)"
    + encoder_layer("transformer_layer_#")
)

ESM_LAYER = """
    kernel     transformer_layer_#/attention_layer/[qkvo]_dense_layer/kernel
    bias       transformer_layer_#/attention_layer/[qkvo]_dense_layer/bias
    kernel     transformer_layer_#/feedforward_(intermediate|output)_dense/kernel
    bias       transformer_layer_#/feedforward_(intermediate|output)_dense/bias
    """

GEMMA = """
    embedding  token_embedding/embeddings
    kernel     decoder_block_#/attention/(query|key|value|attention_output)/kernel
    norm       decoder_block_#/pre_(attention|ffw)_norm/scale
    kernel     decoder_block_#/ffw_(gating|gating_2|linear)/kernel
    norm       final_normalization/scale
    """

GEMMA_POST_NORMS = """
    norm       decoder_block_#/post_(attention|ffw)_norm/scale
    """

GEMMA_QUERY_NORMS = """
    norm       decoder_block_#/attention/(query|key)_norm/scale
    """

LLAMA_ATTENTION = """
    kernel     transformer_layer_#/self_attention/(query|key|value|attention_output)/kernel
    norm       transformer_layer_#/(self_attention|feedforward)_layernorm/scale
    norm       sequence_output_layernorm/scale
    """

LLAMA_FEEDFORWARD = """
    kernel     transformer_layer_#/feedforward_(intermediate|gate|output)_dense/kernel
    """

TIED = "embedding  token_embedding/embeddings"
UNTIED = "embedding  token_embedding/(reverse_)?embeddings -- the matrix in front of the logits"

LLAMA = LLAMA_ATTENTION + LLAMA_FEEDFORWARD + UNTIED

QWEN_BIAS = """
    bias       transformer_layer_#/self_attention/(query|key|value)/bias
    """

QWEN3_NORMS = """
    norm       transformer_layer_#/self_attention/(query|key)_dense_layernorm/scale
    """


def experts(block: str, names: str) -> str:
    """A router, and experts that keep their kernels in one tensor."""
    return f"""
    kernel     transformer_layer_#/{block}(_#)?/sparse_feedforward_gate_dense/kernel -- the router
    kernel     transformer_layer_#/{block}(_#)?/experts/expert_feedforward_({names})_dense
    """


GPT2 = "norm       layer_norm/(gamma|beta)" + decoder_layer("transformer_layer_#")

T5 = """
    embedding  self_attention/embeddings -- scores of relative positions, outside the block's name
    kernel     transformer_(en|de)coder_layer_#/(self|cross)_attention/(query|key|value|output)_projector/kernel
    norm       transformer_(en|de)coder_layer_#/t5_layer_norm(_#)?/weight
    norm       (en|de)coder_output_layer_norm/weight
    """

T5_GEMMA = """
    embedding  (en|de)coder_token_embedding/embeddings
    kernel     (en|de)coder_layer_#/(self|cross|merged)_attention/(query|key|value|attention_output)/kernel
    kernel     (en|de)coder_layer_#/mlp/(gate|up|down)_proj/kernel
    norm       (en|de)coder_layer_#/(decoder_)?(pre|post)_(self_attention|cross_attention|feedforward)_layernorm/scale
    norm       rms_normalization(_#)?/scale
    """

VIT_MLP = """
    kernel     vit_encoder/transformer_block_#/mlp/dense_#/kernel
    bias       vit_encoder/transformer_block_#/mlp/dense_#/bias
    """


def vit_block(block: str) -> str:
    """KerasHub's ViT and DeiT."""
    return f"""
    kernel     {block}/mha/(query|key|value|attention_output)/kernel
    bias       {block}/mha/(query|key|value|attention_output)/bias
    norm       {block}/ln_#/(gamma|beta)
    """


DINO = """
    embedding    embeddings/(cls_token|mask_token|register_tokens)
    convolution  embeddings/patch_embeddings/projection/kernel
    bias         embeddings/patch_embeddings/projection/bias
    norm         encoder/layers_#/norm#/(gamma|beta)
    norm         encoder/layers_#/layer_scale#/lambda1 -- LayerScale
    norm         layernorm/(gamma|beta)
    """

MIT = """
    convolution  patch_and_embed_#/conv2d(_#)?/kernel
    bias         patch_and_embed_#/conv2d(_#)?/bias
    norm         patch_and_embed_#/layer_normalization(_#)?/(gamma|beta)
    norm         (hierarchical_encoder_#_#/(seg_former_multihead_attention(_#)?/)?)?layer_normalization_#/(gamma|beta)
    kernel       hierarchical_encoder_#_#/(seg_former_multihead_attention|mix_ffn)(_#)?/dense(_#)?/kernel
    bias         hierarchical_encoder_#_#/(seg_former_multihead_attention|mix_ffn)(_#)?/dense(_#)?/bias
    convolution  hierarchical_encoder_#_#/seg_former_multihead_attention(_#)?/conv2d_#/kernel
    bias         hierarchical_encoder_#_#/seg_former_multihead_attention(_#)?/conv2d_#/bias
    convolution  hierarchical_encoder_#_#/mix_ffn(_#)?/depthwise_conv2d(_#)?/kernel
    bias         hierarchical_encoder_#_#/mix_ffn(_#)?/depthwise_conv2d(_#)?/bias
    """

VIT_DET = """
    convolution  vi_t_det_patching_and_embedding/conv2d/kernel
    bias         vi_t_det_patching_and_embedding/conv2d/bias
    embedding    add_positional_embedding/pos_embed
    embedding    add_relative_positional_embedding(_#)?/rel_pos_[hw]
    norm         windowed_transformer_encoder(_#)?/layer_normalization(_#)?/(gamma|beta)
    kernel       windowed_transformer_encoder(_#)?/multi_head_attention_with_relative_pe(_#)?/dense(_#)?/kernel
    bias         windowed_transformer_encoder(_#)?/multi_head_attention_with_relative_pe(_#)?/dense(_#)?/bias
    kernel       windowed_transformer_encoder(_#)?/mlp(_#)?/sequential(_#)?/dense_#/kernel
    bias         windowed_transformer_encoder(_#)?/mlp(_#)?/sequential(_#)?/dense_#/bias
    convolution  sequential_#/conv2d_#/kernel
    norm         sequential_#/layer_normalization_#/(gamma|beta)
    """

CLIP = """
    embedding    embedding/class_embedding
    embedding    embedding/(token|position)_embedding/embeddings
    convolution  embedding/patch_embedding/kernel
    norm         (pre_)?layer_norm/(gamma|beta)
    norm         encoder_block_#/layer_norm_#/(gamma|beta)
    kernel       encoder_block_#/attention/(query|key|value|attention_output)/kernel
    bias         encoder_block_#/attention/(query|key|value|attention_output)/bias
    kernel       encoder_block_#/dense_#/kernel
    bias         encoder_block_#/dense_#/bias
    kernel       (vision|text)_projection/kernel
    """

EFFICIENTNET = """
    convolution  (stem|top)_conv/kernel
    norm         (stem|top)_bn/(gamma|beta)
    """

RESNET = """
    convolution  conv1_conv/kernel
    convolution  stack#_block#_#_conv/kernel
    norm         stack#_block#_#_bn/(gamma|beta)
    """

BACKBONE_ROLES: dict[str, str] = {
    "albert": BERT_EMBEDDINGS
    + """
    kernel     embedding_projection/kernel -- from the width of the tables to that of the blocks
    bias       embedding_projection/bias
    """
    + encoder_layer("group_#_inner_layer_#")
    + POOLER,
    "bart": """
    embedding  token_embedding/embeddings
    embedding  (en|de)coder_position_embedding/embeddings
    norm       (en|de)coder_embeddings_layer_norm/(gamma|beta)
    """
    + encoder_layer("transformer_encoder_layer_#")
    + decoder_layer("transformer_decoder_layer_#", "(self_attention|cross_attention)"),
    "bert": BERT_EMBEDDINGS + encoder_layer("transformer_layer_#") + POOLER,
    "bloom": """
    embedding  token_embedding/embeddings
    norm       (embedding|final)_layernorm/(gamma|beta)
    norm       transformer_layer_#/(pre|post)_attention_layernorm/(gamma|beta)
    kernel     transformer_layer_#/self_attention/(query|key|value|output)_dense/kernel
    bias       transformer_layer_#/self_attention/(query|key|value|output)_dense/bias
    kernel     transformer_layer_#/mlp_(intermediate|output)_dense/kernel
    bias       transformer_layer_#/mlp_(intermediate|output)_dense/bias
    """,
    "deberta_v3": """
    embedding  token_embedding/embeddings
    norm       embeddings_layer_norm/(gamma|beta)
    embedding  rel_embedding/rel_embedding -- of relative positions, for all blocks
    norm       rel_embedding/rel_embeddings_layer_norm/(gamma|beta)
    """
    + encoder_layer("disentangled_attention_encoder_layer_#"),
    "distil_bert": ROBERTA,
    "electra": BERT_EMBEDDINGS
    + """
    kernel     embeddings_projection/kernel
    bias       embeddings_projection/bias
    """
    + encoder_layer("transformer_layer_#")
    + POOLER,
    "esm": ESM_LAYER
    + """
    embedding  token_embedding/embeddings
    norm       (emb|output)_layer_norm/(gamma|beta)
    norm       transformer_layer_#/(attention|ffn)_norm/(gamma|beta)
    """,
    "esm_absolute": ESM_LAYER
    + """
    embedding  (token|position)_embedding/embeddings
    norm       output_layer_norm/(gamma|beta)
    norm       transformer_layer_#/(attention|ffn)_norm/(gamma|beta)
    """,
    "f_net": BERT_EMBEDDINGS
    + """
    kernel     embedding_projection/kernel
    bias       embedding_projection/bias
    norm       f_net_layer_#/(mixing|output)_layer_norm/(gamma|beta)
    kernel     f_net_layer_#/(intermediate|output)_dense/kernel
    bias       f_net_layer_#/(intermediate|output)_dense/bias
    """
    + POOLER,
    "roberta": ROBERTA,
    "xlm_roberta": ROBERTA,
    "roformer_v2": ESM_LAYER
    + """
    embedding  (token|segment)_embedding/embeddings
    norm       embeddings_layer_norm/scale
    norm       transformer_layer_#/(attention|feedforward)_norm/scale
    """,
    "xlnet": """
    embedding  content_query_embedding/word_embedding/embeddings
    embedding  encoder_block_attn_mask_layer/mask_emb -- the token that stands for what is to be guessed
    bias       xlnet_encoder_#/(content|positional|segment)_attention_bias -- each added to the queries
    embedding  xlnet_encoder_#/segment_encoding -- a vector for "same segment", one for "another"
    kernel     xlnet_encoder_#/rel_attn/(query|key|value|attention_output|encoding)/kernel
    norm       xlnet_encoder_#/layer_norm_(rel_attn|ff)/(gamma|beta)
    kernel     xlnet_encoder_#/feedforward_(intermediate|output)_dense/kernel
    bias       xlnet_encoder_#/feedforward_(intermediate|output)_dense/bias
    """,
    "t5": T5
    + """
    embedding  token_embedding/embeddings
    kernel     transformer_(en|de)coder_layer_#/(input|gate|output)_projector/kernel
    """,
    "t5_untied": T5
    + """
    embedding  token_embedding/(reverse_)?embeddings
    kernel     transformer_(en|de)coder_layer_#/(input|output)_projector/kernel
    """,
    "t5_gemma": T5_GEMMA,
    "t5_gemma_2": T5_GEMMA
    + """
    norm       (en|de)coder_layer_#/(self|merged)_attention/(query|key)_norm/scale
    """,
    "falcon": """
    embedding  token_embedding/embeddings
    norm       transformer_layer_#/(input|post_attention)_layernorm/(gamma|beta)
    kernel     transformer_layer_#/attention/(query|key|value|output)_dense/kernel
    bias       transformer_layer_#/attention/(query|key|value|output)_dense/bias
    kernel     transformer_layer_#/dense_(h_to_4h|4h_to_h)/kernel
    bias       transformer_layer_#/dense_(h_to_4h|4h_to_h)/bias
    norm       final_layernorm/(gamma|beta)
    """,
    "gemma": GEMMA,
    "gemma_2": GEMMA + GEMMA_POST_NORMS,
    "gemma3": GEMMA + GEMMA_POST_NORMS + GEMMA_QUERY_NORMS,
    "gemma4": GEMMA + GEMMA_POST_NORMS + GEMMA_QUERY_NORMS,
    "gpt2": "embedding (token|position)_embedding/embeddings\n" + GPT2,
    "gpt_neo_x": """
    embedding  token_embedding/embeddings
    kernel     transformer_layer_#/self_attention/(query_key_value|attention_output)/kernel
    bias       transformer_layer_#/self_attention/(query_key_value|attention_output)/bias
    norm       transformer_layer_#/(self_attention|feedforward)_layer_norm/(gamma|beta)
    kernel     transformer_layer_#/feedforward_(intermediate|output)_dense/kernel
    bias       transformer_layer_#/feedforward_(intermediate|output)_dense/bias
    norm       layer_norm/(gamma|beta)
    """,
    "gpt_oss": UNTIED
    + """
    kernel     transformer_layer_#/self_attention/(query|key|value|attention_output)/kernel
    bias       transformer_layer_#/self_attention/(query|key|value|attention_output)/bias
    other      transformer_layer_#/self_attention/sinks -- a logit beside those of the tokens, in each softmax
    norm       transformer_layer_#/(input|post_attention)_layernorm/scale
    norm       sequence_output_layernorm/scale
    kernel     transformer_layer_#/sparse_moe_block/router/router_dense/kernel
    bias       transformer_layer_#/sparse_moe_block/router/router_dense/bias
    kernel     transformer_layer_#/sparse_moe_block/experts/(gate_up|down)_proj
    bias       transformer_layer_#/sparse_moe_block/experts/(gate_up|down)_proj_bias -- a row for each expert
    """,
    "llama": LLAMA,
    "llama3": LLAMA,
    "mistral": LLAMA,
    "mixtral": LLAMA_ATTENTION
    + experts("mixtral_sparse_moe_block", "gate|intermediate|output")
    + UNTIED,
    "opt": TOKEN_AND_POSITION + GPT2,
    "phi3": UNTIED
    + """
    norm       transformer_layer_#/(pre|post)_attention_layernorm/scale
    norm       sequence_output_layernorm/scale
    kernel     transformer_layer_#/attention/(query|key|value|attention_output)/kernel
    """
    + LLAMA_FEEDFORWARD,
    "qwen": LLAMA_ATTENTION + QWEN_BIAS + LLAMA_FEEDFORWARD + TIED,
    "qwen_untied": LLAMA_ATTENTION + QWEN_BIAS + LLAMA_FEEDFORWARD + UNTIED,
    "qwen_moe": LLAMA_ATTENTION
    + QWEN_BIAS
    + experts("qwen_sparse_moe_block", "gate|output")
    + """
    kernel     transformer_layer_#/qwen_sparse_moe_block(_#)?/shared_expert_dense/feedforward_(intermediate|gate|output)_dense/kernel
    kernel     transformer_layer_#/qwen_sparse_moe_block(_#)?/shared_expert_gate_dense/kernel
    """
    + UNTIED,
    "qwen3": LLAMA_ATTENTION + QWEN3_NORMS + LLAMA_FEEDFORWARD + TIED,
    "qwen3_moe": LLAMA_ATTENTION
    + QWEN3_NORMS
    + experts("qwen3_sparse_moe_block", "gate|output")
    + UNTIED,
    "qwen3_5": UNTIED
    + LLAMA_FEEDFORWARD
    + """
    convolution  transformer_layer_#/linear_attn/conv1d_kernel -- over time, each channel for itself: two axes
    bias         transformer_layer_#/linear_attn/dt_bias -- added to what in_proj_a puts out
    other        transformer_layer_#/linear_attn/A_log -- how fast each head forgets, as a logarithm
    kernel       transformer_layer_#/linear_attn/(in_proj_(qkv|z|b|a)|out_proj)/kernel
    norm         transformer_layer_#/linear_attn/norm/scale
    norm         transformer_layer_#/(input|post_attention)_layernorm/scale
    kernel       transformer_layer_#/self_attention/(query|key|value|attention_output)/kernel
    norm         transformer_layer_#/self_attention/(query|key)_norm/scale
    norm         sequence_output_layernorm/scale
    """,
    "rwkv7": """
    embedding  token_embedding/embeddings
    norm       rwkv_layer_#/(init|att|ffn)_norm/(gamma|beta)
    norm       rwkv_layer_#/RWKV_TIME_MIX/group_normalization(_#)?/(gamma|beta)
    norm       output_norm/(gamma|beta)
    kernel     rwkv_layer_#/RWKV_TIME_MIX/(receptance|key|value|output_layer)/kernel
    kernel     rwkv_layer_#/RWKV_TIME_MIX/[wavg][12] -- linear maps of low rank, no LoRA for tuning
    bias       rwkv_layer_#/RWKV_TIME_MIX/[wav]0 -- added to what the map of low rank puts out
    other      rwkv_layer_#/RWKV_TIME_MIX/x_[rwkvag] -- how much of the token before is mixed in
    other      rwkv_layer_#/RWKV_TIME_MIX/(k_k|k_a|r_k) -- scales of keys, and of the token itself
    other      rwkv_layer_#/RWKV_CMIX/time_mix_k
    kernel     rwkv_layer_#/RWKV_CMIX/dense_[kv]/kernel
    kernel     head/kernel
    """,
    "smollm3": """
    embedding  token_embedding/embeddings
    kernel     transformer_layer_#/self_attn/[qkv]_proj/kernel
    kernel     o_proj/kernel -- of each block, outside the block's name
    kernel     transformer_layer_#/mlp/(gate|up|down)_proj/kernel
    bias       transformer_layer_#/mlp/(gate|up|down)_proj/bias
    norm       transformer_layer_#/(input|post_attention)_layernorm/scale
    norm       sequence_output_layernorm/scale
    """,
    "whisper": """
    convolution  encoder_token_embedding_conv_layer_#/kernel -- of sound: no table, whatever the name says
    bias         encoder_token_embedding_conv_layer_#/bias
    embedding    decoder_token_and_position_embedding/(token|position)_embedding/embeddings
    norm         (en|de)coder_layer_norm/(gamma|beta)
    """
    + encoder_layer("transformer_encoder_layer_#")
    + decoder_layer("transformer_decoder_layer_#", "(self_attention|cross_attention)"),
    "moonshine": """
    convolution  conv#/kernel
    bias         conv#/bias
    norm         group_norm/(gamma|beta)
    kernel       encoder_block_#/self_attention_layer/(query|key|value|attention_output)/kernel
    norm         encoder_block_#/(self_attention|feedforward)_layer_norm/gamma
    kernel       encoder_block_#/feedforward/dense_#/kernel
    bias         encoder_block_#/feedforward/dense_#/bias
    embedding    token_embedding/embeddings
    norm         (encoder_final_layer|decoder_post)_norm/gamma
    norm         decoder_block_#/layer_normalization(_#)?/gamma
    kernel       decoder_block_#/moonshine_multi_head_attention(_#)?/(query|key|value|attention_output)/kernel
    kernel       decoder_block_#/moonshine_mlp(_#)?/dense_#/kernel
    bias         decoder_block_#/moonshine_mlp(_#)?/dense_#/bias
    """,
    "vit": """
    embedding    vit_patching_and_embedding/class_token
    embedding    vit_patching_and_embedding/position_embedding/embeddings
    convolution  vit_patching_and_embedding/patch_embedding/kernel
    bias         vit_patching_and_embedding/patch_embedding/bias
    norm         vit_encoder/ln/(gamma|beta)
    """
    + vit_block("vit_encoder/transformer_block_#")
    + VIT_MLP,
    "deit": """
    embedding    deit_patching_and_embedding/(class_token|distillation_token|position_embedding)
    convolution  deit_patching_and_embedding/patch_embedding/kernel
    bias         deit_patching_and_embedding/patch_embedding/bias
    norm         deit_encoder/ln/(gamma|beta)
    kernel       deit_encoder/transformer_block_#/(mlp/dense|output_layer/output)/kernel
    bias         deit_encoder/transformer_block_#/(mlp/dense|output_layer/output)/bias
    """
    + vit_block("deit_encoder/transformer_block_#"),
    "dinov2": DINO
    + """
    embedding    embeddings/interpolated_position_embeddings -- the table of the trained size is held
    kernel       encoder/layers_#/attention/attention/(query|key|value|attention_output)/kernel
    bias         encoder/layers_#/attention/attention/(query|key|value|attention_output)/bias
    kernel       encoder/layers_#/mlp/weights_(in|out)/kernel
    bias         encoder/layers_#/mlp/weights_(in|out)/bias
    """,
    "dinov3": DINO
    + """
    kernel       encoder/layers_#/attention/[qkvo]_proj/kernel
    bias         encoder/layers_#/attention/[qkvo]_proj/bias
    kernel       encoder/layers_#/mlp/(gate|up|down)_proj/kernel
    bias         encoder/layers_#/mlp/(gate|up|down)_proj/bias
    """,
    "mit": MIT,
    "segformer": MIT
    + """
    kernel       linear_#/kernel
    bias         linear_#/bias
    convolution  sequential(_#)?/conv2d_#/kernel
    norm         sequential(_#)?/batch_normalization/(gamma|beta)
    """,
    "swin_transformer": """
    convolution  patch_embedding/conv_projection/kernel
    bias         patch_embedding/conv_projection/bias
    norm         patch_embedding/norm/(gamma|beta)
    norm         stage_#/blocks_#/norm#/(gamma|beta)
    embedding    stage_#/blocks_#/attn/relative_position_bias_table
    kernel       stage_#/blocks_#/attn/attention_(qkv|projection)/kernel
    bias         stage_#/blocks_#/attn/attention_(qkv|projection)/bias
    kernel       stage_#/blocks_#/mlp/fc#/kernel
    bias         stage_#/blocks_#/mlp/fc#/bias
    kernel       stage_#/downsample/reduction/kernel
    norm         stage_#/downsample/norm/(gamma|beta)
    norm         norm/(gamma|beta)
    """,
    "vit_det": VIT_DET,
    "sam": VIT_DET
    + """
    embedding    sam_prompt_encoder/(foreground_point|background_point|top_left_corner|bottom_right_corner)_embed/embeddings
    embedding    sam_prompt_encoder/(not_a_point|no_mask)_embed/embeddings
    convolution  sam_prompt_encoder/mask_downscaler/conv2d_#/kernel
    bias         sam_prompt_encoder/mask_downscaler/conv2d_#/bias
    norm         sam_prompt_encoder/mask_downscaler/layer_normalization_#/(gamma|beta)
    """,
    "clip": CLIP + "other clip_head/logit_scale -- a temperature",
    "clip_uneven": CLIP + "other clip_head/logit_scale -- a temperature",
    "metaclip_2": CLIP
    + """
    norm         vision_post_layer_norm/(gamma|beta)
    other        metaclip_2_head/logit_scale -- a temperature
    """,
    "siglip": """
    embedding    embedding/(token|position)_embedding/embeddings
    convolution  embedding/patch_embedding/kernel
    bias         embedding/patch_embedding/bias
    kernel       (encoder_block_#/self_attn|head/attention)/(query|key|value|attention_output)/kernel
    bias         (encoder_block_#/self_attn|head/attention)/(query|key|value|attention_output)/bias
    norm         (encoder_block_#/layer_norm#|head/layernorm|post_layer_norm)/(gamma|beta)
    kernel       (encoder_block_#|head)/mlp/fc#/kernel
    bias         (encoder_block_#|head)/mlp/fc#/bias
    embedding    head/variable -- the token that asks all patches, and so pools them
    kernel       head/kernel
    bias         head/bias
    other        siglip_head/logit_scale -- a temperature
    other        siglip_head/logit_bias -- added to similarities, not to the outcome of a linear map
    """,
    "pali_gemma": GEMMA
    + """
    convolution  image_encoder/encoder_embeddings/embedding_conv/kernel
    bias         image_encoder/encoder_embeddings/embedding_conv/bias
    embedding    image_encoder/encoder_embeddings/position_embedding/embeddings
    kernel       image_encoder/encoder_block_#/multi_head_attention/(query|key|value|out)_proj/kernel
    bias         image_encoder/encoder_block_#/multi_head_attention/(query|key|value|out)_proj/bias
    norm         image_encoder/encoder_block_#/layer_norm_#/(gamma|beta)
    kernel       image_encoder/encoder_block_#/mlp_dense_#/kernel
    bias         image_encoder/encoder_block_#/mlp_dense_#/bias
    norm         image_encoder/encoder_layer_norm/(gamma|beta)
    kernel       image_classifier/kernel -- into the space of the tokens
    bias         image_classifier/bias
    """,
    "cspnet": """
    convolution  csp_stem_conv_0/kernel
    norm         csp_stem_bn_0/(gamma|beta)
    convolution  stage_#_csp_conv_(down_1|exp|transition|transition_b)/kernel
    norm         stage_#_csp_(bn_#|transition_bn|transition_b_bn)/(gamma|beta)
    convolution  stage_#_block_#_dark_block_conv_#/kernel
    norm         stage_#_block_#_dark_block_bn_#/(gamma|beta)
    """,
    "densenet": """
    convolution  conv1_conv/kernel
    norm         (conv1_)?bn/(gamma|beta)
    convolution  stack#_block#_#_conv/kernel
    norm         stack#_block#_#_bn/(gamma|beta)
    convolution  transition#_conv/kernel
    norm         transition#_bn/(gamma|beta)
    """,
    "efficientnet": EFFICIENTNET
    + """
    convolution  block#[ab]_(expand_conv|dwconv|se_reduce|se_expand|project)/kernel
    bias         block#[ab]_(se_reduce|se_expand)/bias
    norm         block#[ab]_(expand|dwconv|project)_bn/(gamma|beta)
    """,
    "efficientnet_v2": EFFICIENTNET
    + """
    convolution  block#[ab]_/block#[ab]_(expand_conv|dwconv2|se_reduce|se_expand|project_conv)/kernel
    bias         block#[ab]_/block#[ab]_(se_reduce|se_expand)/bias
    norm         block#[ab]_/block#[ab]_((expand|project)_)?bn/(gamma|beta)
    """,
    "hgnet_v2": """
    convolution  (en|em)[a-z0-9_/]+_conv/kernel
    norm         (en|em)[a-z0-9_/]+_bn/(gamma|beta)
    other        (en|em)[a-z0-9_/]+_lab/(scale|bias) -- two numbers behind an activation, for all its channels
    """,
    "mobilenet_v3": """
    convolution  input_conv/kernel
    norm         input_batch_norm/(gamma|beta)
    convolution  block_#_#/block_#_#_conv(#)?/kernel
    norm         block_#_#/block_#_#_bn(#)?/(gamma|beta)
    convolution  block_#_#/block_#_#_(se|squeeze_excite)/block_#_#_(se|squeeze_excite)_conv_(reduce|expand)/kernel
    bias         block_#_#/block_#_#_(se|squeeze_excite)/block_#_#_(se|squeeze_excite)_conv_(reduce|expand)/bias
    """,
    "mobilenet_v5": """
    convolution  (conv_stem|(edge|universal_inverted)_residual(_#)?/conv_norm_act(_#)?)/conv2d(_#)?/kernel
    bias         (conv_stem|(edge|universal_inverted)_residual(_#)?/conv_norm_act(_#)?)/conv2d(_#)?/bias
    norm         (conv_stem|(edge|universal_inverted)_residual(_#)?/conv_norm_act(_#)?)/rms_norm2d(_#)?/gamma
    norm         universal_inverted_residual(_#)?/layer_scale2d(_#)?/gamma -- LayerScale
    convolution  mobile_attention/conv_cpe_dw/kernel
    bias         mobile_attention/conv_cpe_dw/bias
    norm         mobile_attention/norm/gamma
    convolution  mobile_attention/attn/(query|key|value|output)_proj/kernel -- convolutions of one pixel
    convolution  mobile_attention/attn/(key|value)_down_conv/kernel
    norm         mobile_attention/attn/(key|value)_norm/gamma
    norm         mobile_attention/layer_scale/gamma -- LayerScale
    """,
    "resnet": RESNET + "norm conv1_bn/(gamma|beta)",
    "resnet_v2": RESNET
    + """
    norm         stack#_block#_pre_activation_bn/(gamma|beta)
    norm         post_bn/(gamma|beta)
    """,
    "vgg": """
    convolution  block#_conv#/kernel
    bias         block#_conv#/bias
    """,
    "xception": """
    convolution  block#_(conv#|residual_conv)/kernel
    convolution  block#_sepconv#/(depth|point)wise_kernel
    norm         block#_(conv#|sepconv#|residual)_bn/(gamma|beta)
    """,
    "stable_diffusion_3": """
    embedding    clip_[lg]_embedding/(token|position)_embedding/embeddings
    norm         clip_[lg]_(encoder_block_#/layer_norm_#|layer_norm)/(gamma|beta)
    kernel       clip_[lg]_encoder_block_#/attention/(query|key|value|attention_output)/kernel
    bias         clip_[lg]_encoder_block_#/attention/(query|key|value|attention_output)/bias
    kernel       clip_[lg]_encoder_block_#/dense_#/kernel
    bias         clip_[lg]_encoder_block_#/dense_#/bias
    kernel       clip_[lg]_projection/dense/kernel
    convolution  patch_embedding/patch_embedding/kernel
    bias         patch_embedding/patch_embedding/bias
    embedding    position_embedding/embeddings
    kernel       (timestep_embedding/mlp|vector_embedding)/dense#/kernel -- no table: of a sinusoid, of a vector
    bias         (timestep_embedding/mlp|vector_embedding)/dense#/bias
    kernel       context_embedding/kernel -- no table either
    bias         context_embedding/bias
    kernel       joint_block_#/(x|context)_block/(ada_layer_norm/dense|attention_(qkv|proj)2?|mlp/dense#)/kernel
    bias         joint_block_#/(x|context)_block/(ada_layer_norm/dense|attention_(qkv|proj)2?|mlp/dense#)/bias
    norm         joint_block_#/(x|context)_block/[qk]_norm2?/scale
    kernel       output_(ada_layer_norm/)?dense/kernel -- scale and offset as a linear map of the time
    bias         output_(ada_layer_norm/)?dense/bias
    convolution  (en|de)coder/((in|out)put_projection|(mid_)?block_[0-9_]+/conv[0-9_a-z]+|(down|up)sample_#_conv)/kernel
    bias         (en|de)coder/((in|out)put_projection|(mid_)?block_[0-9_]+/conv[0-9_a-z]+|(down|up)sample_#_conv)/bias
    norm         (en|de)coder/((mid_)?block_[0-9_]+/norm#|output_norm|mid_attention/group_norm)/(gamma|beta)
    convolution  (en|de)coder/mid_attention/(query|key|value|output)_conv2d/kernel
    bias         (en|de)coder/mid_attention/(query|key|value|output)_conv2d/bias
    """,
    "flux": """
    kernel       mlp_embedder(_#)?/dense_#/kernel -- no table: of a sinusoid, of a vector
    bias         mlp_embedder(_#)?/dense_#/bias
    kernel       dense(_#)?/kernel
    bias         dense(_#)?/bias
    kernel       (double|single)_stream_block(_#)?/((modulation|sequential)(_#)?/)?dense_#/kernel
    bias         (double|single)_stream_block(_#)?/((modulation|sequential)(_#)?/)?dense_#/bias
    norm         (double|single)_stream_block(_#)?/layer_normalization(_#)?/(gamma|beta)
    norm         rms_normalization(_#)?/scale -- of queries and keys, outside the block's name
    norm         last_layer/layer_normalization_#/(gamma|beta)
    kernel       last_layer/(sequential_#/)?dense_#/kernel
    bias         last_layer/(sequential_#/)?dense_#/bias
    """,
}
