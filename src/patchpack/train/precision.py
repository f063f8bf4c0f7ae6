"""The dtype of matrix products."""

import torch


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a config; "auto" is bfloat16 where the hardware multiplies it fast."""
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return an autocast context with matrix products in `dtype`; disabled for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
