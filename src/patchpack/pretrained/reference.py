"""The original implementation of a source's model, where transformers or timm is installed.

    pixels of one image → tokens, feature vector, logits

Only code of the installed libraries runs, never code that a source brings.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from patchpack.pretrained.converted import Converted
from patchpack.pretrained.source import Source


class ReferenceOutput(NamedTuple):
    """Outputs for one image."""

    tokens: Float[Tensor, "token dim"]  # of patches
    pooled: Float[Tensor, " dim"]
    logits: Float[Tensor, " label"] | None = None


class Reference(NamedTuple):
    """A model of another library."""

    name: str  # library, version, class
    model: torch.nn.Module
    normalize: Callable[[Tensor], Tensor]  # pixels [h, w, 3] of 0..255 → [1, 3, h, w]
    run: Callable[[Tensor], ReferenceOutput]  # of normalized pixels

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "height width 3"]) -> ReferenceOutput:
        return self.run(self.normalize(pixels))


def reference(source: Source, converted: Converted) -> Reference | None:
    """The original model with a source's weights; None where its library is not installed."""
    load = LOADERS.get(source.layout)
    if load is None or not source.path.is_dir():
        return None
    try:
        name, model, run = load(source, converted)
    except (ImportError, RuntimeError):  # torchvision builds for other devices raise RuntimeError
        return None
    mean, std = (torch.tensor(values) for values in (converted.image.mean, converted.image.std))

    def normalize(pixels: Tensor) -> Tensor:
        return ((pixels.float() / 255 - mean) / std).permute(2, 0, 1)[None]

    return Reference(name, model, normalize, run)


# Class of the image tower, and of the model with a classifier, by model_type.
TRANSFORMERS_CLASSES = {
    "siglip2": "Siglip2VisionModel", "siglip2_vision_model": "Siglip2VisionModel",
    "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel",
    "clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel",
    "tipsv2": "Tipsv2VisionModel", "tipsv2_vision_model": "Tipsv2VisionModel",
    "vit": "ViTModel", "deit": "DeiTModel", "vit_mae": "ViTMAEModel", "ijepa": "IJepaModel",
    "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel",
}  # fmt: skip
CLASSIFIERS = {"ViTModel": "ViTForImageClassification", "DeiTModel": "DeiTForImageClassification"}
RESIZES_ALWAYS = ("Dinov2Model", "Dinov2WithRegistersModel", "Tipsv2VisionModel")


def _transformers(source: Source, converted: Converted) -> "Loaded":
    import transformers  # pyrefly: ignore

    transformers.logging.set_verbosity_error()  # tensors that are left out are listed here
    transformers.logging.disable_progress_bar()
    name = TRANSFORMERS_CLASSES[source.config["model_type"]]
    whole = CLASSIFIERS.get(name, name) if converted.classes else name
    changes = {"mask_ratio": 0.0} if name == "ViTMAEModel" else {}
    model = getattr(transformers, whole).from_pretrained(
        source.path, local_files_only=True, dtype=torch.float32, **changes
    )
    model.eval()
    registers, patch = converted.model.registers, converted.model.patch_size
    tower = model.base_model if converted.classes else model
    map_pooled = name in ("SiglipVisionModel", "Siglip2VisionModel", "CLIPVisionModel")

    def run(pixels: Tensor) -> ReferenceOutput:
        if name == "Siglip2VisionModel":
            outputs = tower(**_flat_patches(pixels, patch))
        else:
            arguments: dict[str, Any] = (
                {} if name in RESIZES_ALWAYS else {"interpolate_pos_encoding": True}
            )
            if name == "ViTMAEModel":  # patches stay in order
                count = pixels.shape[-2] // patch * (pixels.shape[-1] // patch)
                arguments["noise"] = torch.arange(count)[None].float()
            outputs = tower(pixels, **arguments)
        tokens = outputs.last_hidden_state[0]
        if map_pooled:
            pooled = outputs.pooler_output[0]
        else:
            pooled = tokens[0] if registers else tokens.mean(0)
        logits = model.classifier(pooled) if converted.classes else None
        return ReferenceOutput(tokens[registers:], pooled, logits)

    return f"transformers {transformers.__version__}, {whole}", model, run


@torch.inference_mode()
def clip_embeddings(
    source: Source, converted: Converted, pixels: Sequence[Tensor], texts: Sequence[str]
) -> tuple[Float[Tensor, "image dim"], Float[Tensor, "text dim"]]:
    """Embeddings of images, each by itself, and of texts, of transformers' image-text model."""
    import transformers  # pyrefly: ignore

    original = reference(source, converted)
    assert original is not None and converted.texts is not None
    model = transformers.CLIPModel.from_pretrained(source.path, dtype=torch.float32).eval()
    limit = converted.texts.config.text.max_length
    tokens = converted.texts.tokenizer.encode(list(texts), limit).tokens
    images, sentences = [], []
    for image in pixels:
        outputs = model(
            input_ids=torch.tensor([tokens[0]]), pixel_values=original.normalize(image),
            interpolate_pos_encoding=True,
        )  # fmt: skip
        images.append(outputs.image_embeds[0])
    for row in tokens:
        outputs = model(
            input_ids=torch.tensor([row]), pixel_values=original.normalize(pixels[0]),
            interpolate_pos_encoding=True,
        )  # fmt: skip
        sentences.append(outputs.text_embeds[0])
    return torch.stack(images), torch.stack(sentences)


def _flat_patches(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """One image as SigLIP 2 NaFlex takes it: flattened patches, their mask, and the grid."""
    _, channels, height, width = pixels.shape
    h, w = height // patch, width // patch
    cells = pixels[0].reshape(channels, h, patch, w, patch).permute(1, 3, 2, 4, 0)
    return {
        "pixel_values": cells.reshape(1, h * w, -1),
        "pixel_attention_mask": torch.ones(1, h * w, dtype=torch.int32),
        "spatial_shapes": torch.tensor([[h, w]]),
    }


def _timm(source: Source, converted: Converted) -> "Loaded":
    import timm  # pyrefly: ignore

    name = source.config["architecture"]
    naflex, patch = name.startswith("naflexvit"), converted.model.patch_size
    changes = {} if naflex else {"dynamic_img_size": True}
    model = timm.create_model(f"local-dir:{source.path}", pretrained=True, **changes).eval()

    def run(pixels: Tensor) -> ReferenceOutput:
        if not naflex:
            features = model.forward_features(pixels)
            pooled = model.forward_head(features, pre_logits=True)[0]
        else:
            flat = _flat_patches(pixels, patch)
            h, w = flat["spatial_shapes"][0].tolist()
            coords = torch.stack([torch.arange(h * w) // w, torch.arange(h * w) % w], dim=-1)[None]
            valid = flat["pixel_attention_mask"].bool()
            features = model.forward_features(flat["pixel_values"], coords, valid)
            if isinstance(features, dict):
                features = features["patches"]
            pooled = model.forward_head(features, patch_valid=valid, pre_logits=True)[0]
        tokens = features[0, converted.model.registers :]
        return ReferenceOutput(tokens, pooled, model.head(pooled) if converted.classes else None)

    return f"timm {timm.__version__}, {name}", model, run


def _open_clip(source: Source, converted: Converted) -> "Loaded":
    import open_clip  # pyrefly: ignore
    from open_clip.model import resize_pos_embed  # pyrefly: ignore

    model = open_clip.create_model(f"local-dir:{source.path}").eval()
    visual, table = model.visual, model.visual.positional_embedding.detach().clone()
    visual.output_tokens, visual.proj = True, None
    patch = converted.model.patch_size

    def run(pixels: Tensor) -> ReferenceOutput:
        visual.grid_size = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        resized = {"visual.positional_embedding": table.clone()}
        resize_pos_embed(resized, model)
        visual.positional_embedding = torch.nn.Parameter(resized["visual.positional_embedding"])
        pooled, tokens = visual(pixels)
        return ReferenceOutput(tokens[0], pooled[0])

    return f"open_clip {open_clip.__version__}", model, run


Loaded = tuple[str, Any, Callable[[Tensor], ReferenceOutput]]
LOADERS: dict[str, Callable[[Source, Converted], Loaded]] = {
    "transformers": _transformers,
    "timm": _timm,
    "open_clip": _open_clip,
}
