"""KerasHub's backbones, each as small as it gets, with three blocks (or stages) per tower.

`BACKBONES["bert"]()` builds one, with random weights, and the names it has in a fresh Keras.
"""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import pytest

hub = pytest.importorskip("keras_hub")

IMAGE = (32, 32, 3)

BACKBONES: dict[str, Callable[[], keras.Model]] = {}


def backbone(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """Lists a builder under its own name, and has it begin with the names of a fresh Keras."""

    def anew() -> keras.Model:
        keras.utils.clear_session(free_memory=False)
        with warnings.catch_warnings():
            # What KerasHub's own code is warned of while it is built.
            warnings.simplefilter("ignore", UserWarning)
            return build()

    BACKBONES[build.__name__] = anew
    return build


# Transformers over tokens. Two configurations are enough for most of them.

ENCODER: dict[str, Any] = {
    "vocabulary_size": 20,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
DECODER: dict[str, Any] = {
    "vocabulary_size": 20,
    "num_layers": 3,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}


@backbone
def albert():
    # Two groups, so that there are several blocks at all: their weights are shared.
    return hub.models.AlbertBackbone(
        **ENCODER | {"num_layers": 4}, embedding_dim=4, num_groups=2, max_sequence_length=6
    )


@backbone
def bart():
    return hub.models.BartBackbone(**ENCODER, max_sequence_length=6)


@backbone
def bert():
    return hub.models.BertBackbone(**ENCODER, max_sequence_length=6)


@backbone
def bloom():
    return hub.models.BloomBackbone(**ENCODER)


@backbone
def deberta_v3():
    return hub.models.DebertaV3Backbone(**ENCODER, max_sequence_length=6, bucket_size=4)


@backbone
def distil_bert():
    return hub.models.DistilBertBackbone(**ENCODER, max_sequence_length=6)


@backbone
def electra():
    settings = ENCODER | {"vocab_size": ENCODER["vocabulary_size"]}
    del settings["vocabulary_size"]
    return hub.models.ElectraBackbone(**settings, embedding_dim=4, max_sequence_length=6)


@backbone
def esm():
    return hub.models.ESMBackbone(**ENCODER, use_pre_layer_norm=True)


@backbone
def esm_absolute():
    return hub.models.ESMBackbone(
        **ENCODER, position_embedding_type="absolute", max_sequence_length=6
    )


@backbone
def f_net():
    settings = ENCODER.copy()
    del settings["num_heads"]
    return hub.models.FNetBackbone(**settings, max_sequence_length=6)


@backbone
def roberta():
    return hub.models.RobertaBackbone(**ENCODER, max_sequence_length=6)


@backbone
def xlm_roberta():
    return hub.models.XLMRobertaBackbone(**ENCODER, max_sequence_length=6)


@backbone
def roformer_v2():
    return hub.models.RoformerV2Backbone(**ENCODER, head_size=4, use_bias=True)


@backbone
def xlnet():
    return hub.models.XLNetBackbone(**ENCODER)


@backbone
def t5():
    return hub.models.T5Backbone(**ENCODER)


@backbone
def t5_untied():
    return hub.models.T5Backbone(**ENCODER, use_gated_activation=False, tie_embedding_weights=False)


T5_GEMMA: dict[str, Any] = {"vocabulary_size": 20, "sliding_window": 4} | {
    f"{tower}_{key}": value
    for tower in ("encoder", "decoder")
    for key, value in {
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "num_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    }.items()
}


@backbone
def t5_gemma():
    return hub.models.T5GemmaBackbone(**T5_GEMMA)


@backbone
def t5_gemma_2():
    return hub.models.T5Gemma2Backbone(**T5_GEMMA)


@backbone
def falcon():
    settings = ENCODER | {"num_attention_heads": 2}
    del settings["num_heads"]
    return hub.models.FalconBackbone(**settings)


@backbone
def gemma():
    return hub.models.GemmaBackbone(**DECODER, head_dim=4)


@backbone
def gemma_2():
    return hub.models.GemmaBackbone(
        **DECODER, head_dim=4, use_post_ffw_norm=True, use_post_attention_norm=True
    )


@backbone
def gemma3():
    return hub.models.Gemma3Backbone(
        **DECODER, head_dim=4, image_size=16, use_post_ffw_norm=True, use_post_attention_norm=True
    )


@backbone
def gemma4():
    return hub.models.Gemma4Backbone(**DECODER, head_dim=4, image_size=16)


@backbone
def gpt2():
    return hub.models.GPT2Backbone(**ENCODER, max_sequence_length=6)


@backbone
def gpt_neo_x():
    # A quarter of each head turns with the position, which needs at least two channels.
    return hub.models.GPTNeoXBackbone(**ENCODER | {"hidden_dim": 16}, max_sequence_length=6)


@backbone
def gpt_oss():
    return hub.models.GptOssBackbone(**DECODER, num_experts=3, top_k=2)


@backbone
def llama():
    return hub.models.LlamaBackbone(**DECODER)


@backbone
def llama3():
    return hub.models.Llama3Backbone(**DECODER)


@backbone
def mistral():
    return hub.models.MistralBackbone(**DECODER)


@backbone
def mixtral():
    return hub.models.MixtralBackbone(**DECODER, num_experts=3)


@backbone
def opt():
    return hub.models.OPTBackbone(**ENCODER, max_sequence_length=6)


@backbone
def phi3():
    return hub.models.Phi3Backbone(**DECODER)


@backbone
def qwen():
    return hub.models.QwenBackbone(**DECODER)


@backbone
def qwen_untied():
    return hub.models.QwenBackbone(**DECODER, tie_word_embeddings=False)


@backbone
def qwen_moe():
    return hub.models.QwenMoeBackbone(
        **DECODER, moe_intermediate_dim=4, shared_expert_intermediate_dim=4, num_experts=3, top_k=2
    )


@backbone
def qwen3():
    return hub.models.Qwen3Backbone(**DECODER, head_dim=4)


@backbone
def qwen3_moe():
    return hub.models.Qwen3MoeBackbone(
        **DECODER, moe_intermediate_dim=4, head_dim=4, num_experts=3, top_k=2
    )


LINEAR_ATTENTION: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}


@backbone
def qwen3_5():
    return hub.models.Qwen3_5Backbone(**DECODER, **LINEAR_ATTENTION)


@backbone
def rwkv7():
    return hub.models.RWKV7Backbone(
        hidden_size=8,
        head_size=4,
        num_layers=3,
        vocabulary_size=20,
        intermediate_dim=12,
        gate_lora=2,
        mv_lora=2,
        aaa_lora=2,
        decay_lora=2,
    )


@backbone
def smollm3():
    return hub.models.SmolLM3Backbone(
        vocabulary_size=20,
        hidden_dim=8,
        intermediate_dim=12,
        num_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, True, True],
        layer_types=["attention"] * 3,
        mlp_bias=True,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=6,
        rope_theta=10_000.0,
        partial_rotary_factor=1.0,
    )


# Sound.


@backbone
def whisper():
    return hub.models.WhisperBackbone(
        **ENCODER, num_mels=4, max_encoder_sequence_length=8, max_decoder_sequence_length=6
    )


@backbone
def moonshine():
    return hub.models.MoonshineBackbone(
        vocabulary_size=20,
        filter_dim=8,
        encoder_num_layers=3,
        decoder_num_layers=3,
        hidden_dim=8,
        intermediate_dim=12,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )


# Transformers over patches.

PATCHES: dict[str, Any] = {
    "image_shape": (16, 16, 3),
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
}


@backbone
def vit():
    return hub.models.ViTBackbone(**PATCHES, patch_size=8, mlp_dim=12)


@backbone
def deit():
    return hub.models.DeiTBackbone(**PATCHES, patch_size=8, intermediate_dim=12)


@backbone
def dinov2():
    return hub.models.DINOV2Backbone(
        **PATCHES,
        patch_size=8,
        intermediate_dim=12,
        num_register_tokens=2,
        position_embedding_shape=(16, 16),
        use_swiglu_ffn=True,
        apply_layernorm=True,
    )


@backbone
def dinov3():
    return hub.models.DINOV3Backbone(
        **PATCHES, patch_size=8, intermediate_dim=12, use_gated_mlp=True, apply_layernorm=True
    )


@backbone
def mit():
    return hub.models.MiTBackbone(
        image_shape=IMAGE,
        num_layers=3,
        hidden_dims=[4, 8, 12],
        layerwise_depths=[2, 1, 2],
        layerwise_num_heads=[1, 2, 2],
        layerwise_sr_ratios=[2, 2, 1],
        layerwise_patch_sizes=[7, 3, 3],
        layerwise_strides=[4, 2, 2],
        max_drop_path_rate=0.1,
    )


@backbone
def segformer():
    return hub.models.SegFormerBackbone(image_encoder=mit(), projection_filters=8)


@backbone
def swin_transformer():
    return hub.models.SwinTransformerBackbone(
        image_shape=IMAGE,
        embed_dim=4,
        depths=(2, 2, 2),
        num_heads=(1, 2, 2),
        window_size=2,
        patch_size=4,
        mlp_ratio=2.0,
    )


def vit_det_of(width: int) -> keras.Model:
    return hub.models.ViTDetBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        hidden_size=width,
        num_layers=3,
        global_attention_layer_indices=[1],
        intermediate_dim=12,
        num_heads=2,
        num_output_channels=width,
        window_size=2,
    )


@backbone
def vit_det():
    return vit_det_of(8)


@backbone
def sam():
    return hub.models.SAMBackbone(
        image_encoder=vit_det_of(8),
        prompt_encoder=hub.layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(4, 4),
            input_image_size=(16, 16),
            mask_in_channels=16,
        ),
        mask_decoder=hub.layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=8,
            intermediate_dim=12,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=2,
            iou_head_depth=2,
            iou_head_hidden_dim=8,
        ),
    )


# Two towers.


def towers(vision: Any, text: Any, text_layers: int = 3) -> dict[str, Any]:
    written = ENCODER | {"num_layers": text_layers}
    return {
        "vision_encoder": vision(**PATCHES, patch_size=8, intermediate_dim=12),
        "text_encoder": text(**written, embedding_dim=8, max_sequence_length=6),
    }


@backbone
def clip():
    encoders = towers(hub.models.CLIPVisionEncoder, hub.models.CLIPTextEncoder)
    return hub.models.CLIPBackbone(**encoders, projection_dim=6)


@backbone
def clip_uneven():
    encoders = towers(hub.models.CLIPVisionEncoder, hub.models.CLIPTextEncoder, text_layers=2)
    return hub.models.CLIPBackbone(**encoders, projection_dim=6)


@backbone
def metaclip_2():
    encoders = towers(hub.models.MetaCLIP2VisionEncoder, hub.models.MetaCLIP2TextEncoder)
    return hub.models.MetaCLIP2Backbone(**encoders, projection_dim=6)


@backbone
def siglip():
    return hub.models.SigLIPBackbone(
        **towers(hub.models.SigLIPVisionEncoder, hub.models.SigLIPTextEncoder)
    )


@backbone
def pali_gemma():
    return hub.models.PaliGemmaBackbone(
        **DECODER,
        image_size=16,
        head_dim=4,
        vit_patch_size=8,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_intermediate_dim=12,
        vit_num_layers=3,
    )


# Convolutions.


@backbone
def cspnet():
    return hub.models.CSPNetBackbone(
        image_shape=IMAGE,
        stem_filters=4,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2, 1],
        stackwise_strides=[2, 2, 2],
        stackwise_num_filters=[4, 8, 8],
        block_type="dark_block",
        stage_type="csp",
        block_ratio=[0.5] * 3,
        bottle_ratio=[1.0] * 3,
        expand_ratio=[1.0] * 3,
    )


@backbone
def densenet():
    return hub.models.DenseNetBackbone(
        image_shape=IMAGE, stackwise_num_repeats=[2, 2, 2], growth_rate=4
    )


@backbone
def efficientnet():
    return hub.models.EfficientNetBackbone(
        input_shape=IMAGE,
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3] * 3,
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[8, 8, 8],
        stackwise_output_filters=[8, 8, 16],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1"] * 3,
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        num_features=16,
    )


@backbone
def efficientnet_v2():
    return hub.models.EfficientNetBackbone(
        input_shape=IMAGE,
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3] * 3,
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[8, 8, 8],
        stackwise_output_filters=[8, 8, 16],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "fused", "unfused"],
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        num_features=16,
    )


@backbone
def hgnet_v2():
    return hub.models.HGNetV2Backbone(
        image_shape=IMAGE,
        depths=[1, 2, 1],
        embedding_size=8,
        hidden_sizes=[8, 16, 16],
        stem_channels=[3, 4, 8],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[(8, 4, 8, 1, 2, 3), (8, 4, 16, 2, 2, 3), (16, 4, 16, 1, 2, 3)],
        apply_downsample=[False, True, True],
        use_lightweight_conv_block=[False, False, True],
    )


@backbone
def mobilenet_v3():
    return hub.models.MobileNetBackbone(
        image_shape=IMAGE,
        stackwise_expansion=[[8, 8], [16, 16]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [8, 8]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=16,
        squeeze_and_excite=0.5,
        input_num_filters=8,
    )


@backbone
def mobilenet_v5():
    # An edge residual, inverted bottlenecks and attention.
    def per_block(first: Any, second: Any, third: Any) -> list[list[Any]]:
        return [[first], [second, second], [second, third]]

    return hub.models.MobileNetV5Backbone(
        image_shape=IMAGE,
        stackwise_block_types=[["er"], ["uir", "uir"], ["uir", "mqa"]],
        stackwise_num_blocks=[1, 2, 2],
        stackwise_num_filters=per_block(8, 8, 8),
        stackwise_strides=[[2], [2, 1], [2, 1]],
        stackwise_act_layers=per_block("relu", "relu", "relu"),
        stackwise_exp_ratios=per_block(2.0, 2.0, 1.0),
        stackwise_se_ratios=per_block(0.0, 0.0, 0.0),
        stackwise_dw_kernel_sizes=per_block(0, 3, 3),
        stackwise_dw_start_kernel_sizes=per_block(0, 3, 0),
        stackwise_dw_end_kernel_sizes=per_block(0, 0, 0),
        stackwise_exp_kernel_sizes=per_block(3, 0, 0),
        stackwise_pw_kernel_sizes=per_block(1, 0, 0),
        stackwise_num_heads=per_block(0, 0, 2),
        stackwise_key_dims=per_block(0, 0, 4),
        stackwise_value_dims=per_block(0, 0, 4),
        stackwise_kv_strides=per_block(0, 0, 2),
        stackwise_use_cpe=per_block(False, False, True),
        stem_size=8,
        use_msfa=False,
        layer_scale_init_value=1e-5,
    )


def residual(block_type: str, pre: bool) -> keras.Model:
    # KerasHub asks for a width of 64 here, nowhere else.
    return hub.models.ResNetBackbone(
        image_shape=IMAGE,
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 4, 4],
        stackwise_num_blocks=[2, 2, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type=block_type,
        use_pre_activation=pre,
    )


@backbone
def resnet():
    return residual("bottleneck_block", False)


@backbone
def resnet_v2():
    return residual("basic_block", True)


@backbone
def vgg():
    return hub.models.VGGBackbone(
        image_shape=IMAGE, stackwise_num_repeats=[2, 2, 3], stackwise_num_filters=[4, 8, 8]
    )


@backbone
def xception():
    return hub.models.XceptionBackbone(
        image_shape=IMAGE,
        stackwise_conv_filters=[[4, 8], [12, 12], [8, 8], [8, 8]],
        stackwise_pooling=[False, True, True, False],
    )


# What draws pictures.


@backbone
def stable_diffusion_3():
    # Its autoencoder is no public model by itself.
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    vae = VAEBackbone(
        image_shape=(16, 16, 3),
        encoder_num_filters=[32, 32, 32, 32],
        encoder_num_blocks=[1, 1, 1, 1],
        decoder_num_filters=[32, 32, 32, 32],
        decoder_num_blocks=[1, 1, 1, 1],
        sample_channels=8,
        dtype="float32",
        name="vae",
    )
    settings = ENCODER | {"embedding_dim": 8, "intermediate_output_index": 1}
    return hub.models.StableDiffusion3Backbone(
        image_shape=(16, 16, 3),
        latent_channels=4,
        mmdit_patch_size=2,
        mmdit_hidden_dim=8,
        mmdit_num_layers=3,
        mmdit_num_heads=2,
        mmdit_position_size=4,
        mmdit_qk_norm="rms_norm",
        mmdit_dual_attention_indices=(1,),
        vae=vae,
        clip_l=hub.models.CLIPTextEncoder(**settings, name="clip_l"),
        clip_g=hub.models.CLIPTextEncoder(**settings, name="clip_g"),
    )


@backbone
def flux():
    return hub.models.FluxBackbone(
        input_channels=8,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=3,
        depth_single_blocks=3,
        axes_dim=[2, 2],
        theta=10_000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(4, 8),
        text_shape=(4, 8),
        image_ids_shape=(4, 2),
        text_ids_shape=(4, 2),
        y_shape=(8,),
    )
