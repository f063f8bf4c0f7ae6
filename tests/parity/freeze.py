"""Write the fixtures of the default tests: outputs of the original models, in tests/pretrained/."""

import json
import tempfile
from pathlib import Path

from peers import PEERS, make_peer
from safetensors.torch import load_file

from patchpack.pretrained.reference import clip_embeddings, reference
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source
from pretrained_fixtures import FOLDER, GRIDS, SENTENCES, make_image, weighted_sum


def freeze(name: str, folder: Path) -> dict:
    """The fixture of a peer."""
    make_peer(name, folder)
    source = read_source(folder)
    converted = convert_source(source)
    original = reference(source, converted)
    if original is None:
        raise RuntimeError(f"the library of {name} is not installed")
    (weights,) = folder.glob("*.safetensors")
    outputs, p = [], converted.model.patch_size
    for h, w in GRIDS:
        output = original(make_image(h * p, w * p))
        values = {"tokens": weighted_sum(output.tokens), "pooled": output.pooled}
        if output.logits is not None:
            values["logits"] = output.logits
        outputs.append(
            {key: [float(f"{v:.7g}") for v in value.tolist()] for key, value in values.items()}
        )
    content = {
        "original": original.name,
        "weights": weights.name,
        "files": {
            path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))
        },
        "shapes": {key: list(tensor.shape) for key, tensor in load_file(weights).items()},
        "outputs": outputs,
    }
    if converted.texts:
        pixels = [make_image(h * p, w * p) for h, w in GRIDS]
        embeddings = clip_embeddings(source, converted, pixels, SENTENCES)
        for key, rows in zip(("image_embeddings", "text_embeddings"), embeddings, strict=True):
            content[key] = [[float(f"{v:.7g}") for v in row] for row in rows.tolist()]
    return content


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            content = freeze(name, Path(folder))
        lines = [f'"{k}":{json.dumps(v, separators=(",", ":"))}' for k, v in content.items()]
        (FOLDER / f"{name}.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
