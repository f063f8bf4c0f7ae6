"""Hostile images from a seed, and the right answer to each: what Pillow makes of it.

Every format and mode that is read, with orientations in EXIF, XMP and text chunks, as saved
(whole), or damaged. The oracle is Pillow's `exif_transpose`, converted to RGB over white.
"""

import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from faults.mutate import DAMAGES, any_of, append_junk, splice
from faults.verdicts import Outcome, Verdict, of_error
from image_files import chunk, smooth
from patchpack.data.images import decode, read_size

ORIENTATION = 0x0112
JPEG_TOLERANCE = 2  # of 255; two builds of one decoder
LARGEST_ORACLE = 30_000_000  # pixels above which no second decoder is run
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {}</rdf:RDF>'
    "</x:xmpmeta>"
)
IN_XMP = (
    'tiff:Orientation="{}"/>',
    "><tiff:Orientation>{}</tiff:Orientation></rdf:Description>",
)


@dataclass(frozen=True)
class HostileImage:
    """A file, how it was made, and whether it is as good as it was saved."""

    name: str
    data: bytes
    whole: bool


def hostile_image(seed: int) -> HostileImage:
    """The file of a seed: a third are whole, the others damaged in one to three ways."""
    rng = np.random.default_rng([1, seed])
    name, data = any_of(_bases(), rng)
    if rng.random() < 0.5:
        name, data = _oriented(name, data, rng)
    if rng.random() < 1 / 3:
        if rng.random() < 0.5 and not name.startswith(("TIFF", "AVIF", "JPEG2000")):
            return HostileImage(f"{name}, append_junk", append_junk(data, rng), True)
        return HostileImage(name, data, True)
    if rng.random() < 0.1:
        other, tail = any_of(_bases(), rng)
        return HostileImage(f"{name} spliced with {other}", splice(data, tail, rng), False)
    if name.startswith("PNG") and rng.random() < 0.5:
        return HostileImage(f"{name}, chunks", _edit_chunks(data, rng), False)
    names = [name]
    for _ in range(int(rng.integers(1, 4))):
        mutation = any_of(DAMAGES, rng)
        data = mutation(data, rng) if data else data
        names.append(mutation.__name__)
    return HostileImage(", ".join(names), data, False)


@cache
def _bases() -> tuple[tuple[str, bytes], ...]:
    """Small files of every format and mode."""
    rgb = Image.fromarray(smooth(26, 19))
    gray, rgba = rgb.convert("L"), rgb.copy()
    rgba.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 19, dtype=np.uint8), (26, 1))))
    deep = Image.fromarray(smooth(26, 19)[..., 0].astype(np.uint16) * 257)
    palette, mask, cmyk = rgb.quantize(16), gray.convert("1"), rgb.convert("CMYK")
    plain: dict[str, tuple[Image.Image, ...]] = {
        "JPEG": (rgb, gray, cmyk),
        "PNG": (rgb, gray, rgba, rgba.convert("LA"), palette, mask, deep),
        "WEBP": (rgb, rgba),
        "GIF": (palette, gray),
        "BMP": (rgb, gray, palette, mask),
        "TIFF": (rgb, gray, rgba, palette, mask, cmyk, deep),
        "PPM": (rgb, gray, mask, deep),
        "AVIF": (rgb, rgba) if features.check("avif") else (),
        "JPEG2000": (rgb, gray, rgba) if features.check("jpg_2000") else (),
    }
    special = [
        ("JPEG", rgb, {"progressive": True}), ("JPEG", rgb, {"subsampling": 0}),
        ("JPEG", rgb, {"subsampling": 2, "restart_marker_blocks": 2}), ("MPO", rgb, {}),
        ("WEBP", rgba, {"lossless": True}), ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", rgb, {"compression": "jpeg"}), ("TIFF", rgb, {"compression": "tiff_deflate"}),
        ("TIFF", mask, {"compression": "group4"}), ("TIFF", rgb, {"big_tiff": True}),
        ("PNG", palette, {"transparency": 3}), ("PNG", rgb, {"transparency": (9, 9, 9)}),
        ("PNG", gray, {"transparency": 7}), ("GIF", palette, {"transparency": 2}),
        ("GIF", palette, {"save_all": True, "append_images": [gray]}),
        ("BMP", rgb, {"dpi": (300, 300)}),
    ]  # fmt: skip
    files = [(format, image, {}) for format, images in plain.items() for image in images]
    return tuple(
        (f"{format} {image.mode} {options or ''}".strip(), _save(image, format, **options))
        for format, image, options in [*files, *special]
    )


def _save(image: Image.Image, format: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _oriented(name: str, data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The same pixels with an orientation, at any of the homes that formats have for it."""
    format = name.split()[0]
    value = int(rng.integers(1, 9) if format == "TIFF" else rng.integers(0, 10))
    exif = Image.Exif()
    exif[ORIENTATION] = value
    xmp = XMP.format(any_of(IN_XMP, rng).format(value)).encode()
    if format == "PNG":
        home = any_of(("eXIf", "late eXIf", "text", "XMP"), rng)
        return f"{name}, {home} {value}", _with_png_chunk(data, home, exif.tobytes(), xmp)
    if format not in ("JPEG", "WEBP", "TIFF", "AVIF"):
        return name, data
    home = any_of(("EXIF", "XMP", "both"), rng)
    options: dict[str, object] = {}
    if home != "XMP":
        options["exif"] = exif if format == "TIFF" else exif.tobytes()
    if home != "EXIF" and format == "TIFF":
        options["tiffinfo"] = {700: xmp}
    elif home != "EXIF":
        options["xmp"] = xmp
    with Image.open(BytesIO(data)) as image:
        image.load()
        if format == "WEBP":
            options["lossless"] = True
        return f"{name}, {home} {value}", _save(image.copy(), format, **options)


def _with_png_chunk(data: bytes, home: str, exif: bytes, xmp: bytes) -> bytes:
    """A PNG with its orientation in a chunk before or after its pixels."""
    if home == "text":
        hexed = re.sub("(.{72})", r"\1\n", exif.hex())
        added = chunk(b"zTXt", b"Raw profile type exif\0\0"
                      + zlib.compress(f"\nexif\n{len(exif):8d}\n{hexed}\n".encode()))  # fmt: skip
    elif home == "XMP":
        added = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    else:
        added = chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    at = data.rindex(b"IEND") - 4 if home == "late eXIf" else 33
    return data[:at] + added + data[at:]


def _edit_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG whose chunks are dropped, repeated, swapped or changed, with sums made right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(int(rng.integers(1, 4))):
        i, j = (int(k) for k in rng.integers(0, len(chunks), 2))
        kind, content = chunks[i]
        edit = int(rng.integers(5))
        if edit == 0 and len(chunks) > 1:
            del chunks[i]
        elif edit == 1:
            chunks.insert(j, chunks[i])
        elif edit == 2:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        elif edit == 3 and content:
            chunks[i] = kind, any_of(DAMAGES, rng)(content, rng)
        else:
            chunks[i] = any_of((b"acTL", b"tRNS", b"gAMA", b"eXIf", b"iCCP", b"zTXt"), rng), content
    return data[:8] + b"".join(chunk(kind, content) for kind, content in chunks)


def check_image(seed: int, folder: Path, _: Path) -> Outcome:
    """Decode the image of a seed, from memory and by its header, and compare with Pillow."""
    hostile = hostile_image(seed)
    path = folder / "image.bin"
    path.write_bytes(hostile.data)
    return Outcome(hostile.name, *_compare(hostile, path))


def _compare(hostile: HostileImage, path: Path) -> tuple[Verdict, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            size = read_size(path)
            pixels = decode(path, key="the key")
        except Exception as error:
            verdict, detail = of_error(error, ("the key", str(path)))
            if verdict == Verdict.REFUSED and hostile.whole:
                return Verdict.UNCLEAR, f"a whole file is refused: {detail}"
            return verdict, detail
        if pixels.shape[:2] != size:
            return Verdict.SILENT, f"its header has {size}, its pixels {pixels.shape[:2]}"
        if size[0] * size[1] > LARGEST_ORACLE:
            return Verdict.RIGHT, "too large for a second decoder"
        expected = pillows(hostile.data)
    if expected is None:
        return Verdict.SILENT, "decoded, where Pillow finds damage"
    if expected.shape != pixels.shape:
        return Verdict.SILENT, f"shape {pixels.shape}, Pillow's {expected.shape}"
    off = int(np.abs(expected.astype(int) - pixels.astype(int)).max(initial=0))
    if off > (JPEG_TOLERANCE if hostile.data[:2] == b"\xff\xd8" else 0):
        return Verdict.SILENT, f"pixels differ from Pillow's by up to {off}"
    return Verdict.RIGHT, ""


def pillows(data: bytes) -> np.ndarray | None:
    """Pillow's upright pixels of a file; None if it cannot decode them."""
    try:
        image = Image.open(BytesIO(data))
        image.load()
    except Exception:  # any type, on hostile files
        return None
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # broken metadata of good pixels
        pass
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        gray = np.floor(values / 257 + 0.5)
        if (transparent := image.info.get("transparency")) is not None:
            gray[values == transparent] = 255
        return np.repeat(gray[..., None], 3, 2).astype(np.uint8)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))
