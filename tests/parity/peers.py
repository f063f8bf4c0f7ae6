"""Tiny models of other libraries with random weights, saved as those libraries publish theirs.

Weights follow from the name of each tensor, not from a library's initialization: no scale is one,
no shift zero, so that nothing is hidden, and the default tests can make the same weights again.
"""

import json
from collections.abc import Callable
from pathlib import Path

import tokenizers
from originals import open_clip, timm, transformers
from safetensors.torch import load_file, save_file

from pretrained_fixtures import WORDS, fill

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
TIMM_SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 24, "patch_size": 4}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 40, "max_position_embeddings": 8,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
PROCESSOR = {"do_normalize": True, "do_rescale": True, "do_resize": True,
             "rescale_factor": 1 / 255}  # fmt: skip
SQUARE = {"size": {"height": 24, "width": 24}}


def from_transformers(
    config: str, model: str, processor: dict | None, **values: object
) -> Callable[[Path], None]:
    """A maker of a folder with a model of transformers."""

    def make(folder: Path) -> None:
        settings = getattr(transformers, config)(**values)
        getattr(transformers, model)(settings).save_pretrained(folder)
        if processor is not None:
            text = json.dumps(PROCESSOR | processor)
            (folder / "preprocessor_config.json").write_text(text)

    return make


def with_tokenizer(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """A maker that writes a tokenizer too: words, after a start token and before an end token."""

    def make_both(folder: Path) -> None:
        make(folder)
        names = ["<unknown>", *WORDS]
        names += [f"<{n}>" for n in range(TEXT["vocab_size"] - len(names) - 2)] + ["<s>", "</s>"]
        vocabulary = {name: number for number, name in enumerate(names)}
        engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<unknown>"))
        engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        special = [(name, vocabulary[name]) for name in ("<s>", "</s>")]
        engine.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=special
        )
        engine.save(str(folder / "tokenizer.json"))

    return make_both


def from_timm(architecture: str, **values: object) -> Callable[[Path], None]:
    """A maker of a folder with a model of timm."""

    def make(folder: Path) -> None:
        model = timm.create_model(architecture, **values)
        timm.models.save_for_hf(model, folder, model_args=values, safe_serialization=True)

    return make


def from_open_clip(quick_gelu: bool) -> Callable[[Path], None]:
    """A maker of a folder with a CLIP model of open_clip."""

    def make(folder: Path) -> None:
        text = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}
        vision = {"image_size": 24, "layers": 2, "width": 16, "patch_size": 4, "head_width": 8}
        model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}
        tensors = open_clip.model.CLIP(**model).state_dict()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        preprocess = {"mean": CLIP["image_mean"], "std": CLIP["image_std"], "size": 24,
                      "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
        config = {"model_cfg": model, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config))

    return make


SQUARES = {**SMALL, "intermediate_size": 32, "image_size": 24}
DINO = {**SMALL, "mlp_ratio": 2, "image_size": 24}
CROPPED = {**IMAGENET, "resample": 3, "do_center_crop": True,
           "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20}}  # fmt: skip
NAFLEX = {k: v for k, v in TIMM_SMALL.items() if k != "img_size"}
PEERS: dict[str, Callable[[Path], None]] = {
    "siglip2_naflex": from_transformers(
        "Siglip2VisionConfig", "Siglip2VisionModel",
        {**HALF, "resample": 2, "max_num_patches": 30, "patch_size": 4},
        **SMALL, intermediate_size=32, num_patches=25,
    ),
    "siglip2_naflex_with_text": from_transformers(
        "Siglip2Config", "Siglip2Model", {**HALF, "resample": 2, "max_num_patches": 30},
        vision_config={**SMALL, "intermediate_size": 32, "num_patches": 25}, text_config=TEXT,
    ),
    "siglip": from_transformers(
        "SiglipVisionConfig", "SiglipVisionModel", {**HALF, **SQUARE, "resample": 3}, **SQUARES
    ),
    "ijepa": from_transformers("IJepaConfig", "IJepaModel", {**IMAGENET, **SQUARE, "resample": 2},
                               **SQUARES),
    "vit": from_transformers(
        "ViTConfig", "ViTForImageClassification", {**HALF, **SQUARE, "resample": 2}, **SQUARES,
        id2label={0: "cat", 1: "dog", 2: "bird"}, label2id={"cat": 0, "dog": 1, "bird": 2},
    ),
    "vit_with_pooler": from_transformers("ViTConfig", "ViTModel", None, **SQUARES, qkv_bias=False),
    "deit": from_transformers("DeiTConfig", "DeiTModel", CROPPED, **SQUARES),
    "mae": from_transformers(
        "ViTMAEConfig", "ViTMAEForPreTraining", {**IMAGENET, **SQUARE, "resample": 3}, **SQUARES,
        decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
        decoder_intermediate_size=16,
    ),
    "dinov2": from_transformers("Dinov2Config", "Dinov2Model", CROPPED, **DINO),
    "dinov2_with_registers": from_transformers(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", CROPPED, **DINO
    ),
    "tips": from_transformers(
        "Tipsv2VisionConfig", "Tipsv2VisionModel",
        {**SQUARE, "resample": 2, "do_normalize": False}, **DINO,
    ),
    "clip": from_transformers("CLIPVisionConfig", "CLIPVisionModel", {**CROPPED, **CLIP},
                              **SQUARES),
    "clip_gelu_without_tokenizer": from_transformers(
        "CLIPConfig", "CLIPModel", {**CROPPED, **CLIP},
        vision_config={**SQUARES, "hidden_act": "gelu"}, text_config=TEXT, projection_dim=8,
    ),
    "clip_with_text": with_tokenizer(from_transformers(
        "CLIPConfig", "CLIPModel", {**CROPPED, **CLIP},
        vision_config=SQUARES, text_config=TEXT, projection_dim=8,
    )),
    "open_clip": from_open_clip(quick_gelu=False),
    "open_clip_quickgelu": from_open_clip(quick_gelu=True),
    "timm_augreg": from_timm("vit_tiny_patch16_224", num_classes=3, **TIMM_SMALL),
    "timm_mae": from_timm("vit_base_patch16_224", num_classes=0, **TIMM_SMALL),
    "timm_gap_fc_norm": from_timm("vit_base_patch16_224", num_classes=3, global_pool="avg",
                                  **TIMM_SMALL),
    "timm_deit": from_timm("deit_tiny_patch16_224", num_classes=3, **TIMM_SMALL),
    "timm_deit3": from_timm("deit3_small_patch16_224", num_classes=3, **TIMM_SMALL),
    "timm_dinov2": from_timm("vit_small_patch14_dinov2", **TIMM_SMALL),
    "timm_dinov2_reg4": from_timm("vit_small_patch14_reg4_dinov2", **TIMM_SMALL),
    "timm_tips": from_timm("vit_base_patch14_reg1_tipsv2", **TIMM_SMALL),
    "timm_gap": from_timm("vit_medium_patch16_gap_240", num_classes=3, **TIMM_SMALL),
    "timm_reg4_gap": from_timm("vit_medium_patch16_reg4_gap_256", num_classes=3, **TIMM_SMALL),
    "timm_clip": from_timm("vit_base_patch16_clip_224", num_classes=3, **TIMM_SMALL),
    "timm_clip_quickgelu": from_timm("vit_base_patch16_clip_quickgelu_224", num_classes=3,
                                     **TIMM_SMALL),
    "timm_siglip": from_timm("vit_base_patch16_siglip_224", num_classes=0, **TIMM_SMALL),
    "timm_siglip_tanh": from_timm("vit_base_patch32_siglip_256", num_classes=0, **TIMM_SMALL),
    "timm_siglip_gap": from_timm("vit_base_patch16_siglip_gap_224", num_classes=0, **TIMM_SMALL),
    "timm_naflex_gap": from_timm("naflexvit_base_patch16_gap", num_classes=3, **NAFLEX),
    "timm_naflex_par": from_timm("naflexvit_base_patch16_par_gap", num_classes=3, **NAFLEX),
    "timm_naflex_parfac": from_timm("naflexvit_base_patch16_parfac_gap", num_classes=3, **NAFLEX),
    "timm_naflex_map": from_timm("naflexvit_base_patch16_map", num_classes=3, **NAFLEX),
    "timm_naflex_siglip": from_timm("naflexvit_base_patch16_siglip", num_classes=0, **NAFLEX),
}  # fmt: skip


def make_peer(name: str, folder: Path) -> Path:
    """Save a peer with weights that follow from the names of its tensors."""
    PEERS[name](folder)
    (path,) = folder.glob("*.safetensors")
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
    save_file(fill(shapes), path, metadata={"format": "pt"})
    return folder
