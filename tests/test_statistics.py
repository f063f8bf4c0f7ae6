"""The dataset survey counts tokens, packs and compute."""

from patchpack.data.config import PackingConfig
from patchpack.data.index import build_index
from patchpack.data.packing.resolution import Native
from patchpack.data.statistics import survey
from patchpack.model.navit import forward_flops
from patchpack.model.presets import model_config


def test_a_survey_counts_tokens_and_compute(folder, tmp_path):
    index = build_index(folder, cache_dir=tmp_path)
    config = model_config("navit_s16", patch_size=4)
    result = survey(
        index,
        PackingConfig(patch_size=4, max_tokens=300, resolution=Native()),
        flops=lambda n: forward_flops(config, n),
    )
    assert result.images == 72 and result.splits == {"train": 48, "val": 12, "test": 12}
    assert result.tokens[0] >= 4 and result.tokens[-1] <= 100 and 0.9 < result.fill <= 1
    assert result.gflops < result.gflops_padded and result.gflops < result.gflops_square
    assert result.json()["packs"] == result.packs
