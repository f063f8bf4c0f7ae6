"""Peak memory and seconds of the worst known files: each is embedded alone, by the command.

A file that is refused has cost little; one that is read must stay within SECONDS and MEGABYTES.
"""

import shutil
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from faults.commands import TimedOut, run
from faults.reference import cache_of
from faults.verdicts import Outcome, Verdict, of_command
from image_files import chunk, encode, smooth

SECONDS = 10.0  # of computing, for one file
MEGABYTES = 1500.0  # above the imported package
SIDE = 9_459  # px; its square is just below the maximum of pixels
PIXELS = 89_478_485


def flat_png(width: int, height: int, depth: int, color: int, *chunks: bytes) -> bytes:
    """A PNG of zeros, compressed a row at a time."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    packer, parts = zlib.compressobj(), []
    rows_at_once = max(1, (1 << 20) // len(row))
    for top in range(0, height, rows_at_once):
        parts.append(packer.compress(row * min(rows_at_once, height - top)))
    data = b"".join([*parts, packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    first = [chunk(b"IHDR", header), *([chunk(b"PLTE", bytes(768))] if color == 3 else [])]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [*first, *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG of one color whose last scan is repeated: each is a pass over it all."""
    data = saved("RGB", (side, side), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * scans + data[end:]


def saved(mode: str, side: tuple[int, int], format: str, **options) -> bytes:
    file = BytesIO()
    Image.new(mode, side).save(file, format, **options)
    return file.getvalue()


def markers(count: int) -> bytes:
    """A JPEG with many application segments."""
    data = encode(smooth(64, 64), "JPEG")
    return data[:2] + (b"\xff\xe5\x00\x04ab" * count) + data[2:]


def pages(count: int) -> bytes:
    small = Image.new("1", (8, 8))
    file = BytesIO()
    small.save(file, "GIF", save_all=True, append_images=[small.rotate(90)] * count)
    return file.getvalue()


WORST: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG, 500 px, 6,000 more scans": (".jpg", lambda: scan_bomb(500, 6000)),
    "JPEG, 3,000 px, 1,000 more scans": (".jpg", lambda: scan_bomb(3000, 1000)),
    "JPEG, 100,000 segments": (".jpg", lambda: markers(100_000)),
    "JPEG, giant": (".jpg", lambda: saved("RGB", (SIDE, SIDE), "JPEG")),
    "JPEG, giant, progressive": (
        ".jpg", lambda: saved("L", (SIDE, SIDE), "JPEG", progressive=True)),
    "PNG, one column": (".png", lambda: flat_png(1, PIXELS, 8, 0)),
    "PNG, one row": (".png", lambda: flat_png(PIXELS, 1, 8, 0)),
    "PNG, two columns": (".png", lambda: flat_png(2, PIXELS // 2, 8, 2)),
    "PNG, giant, gray": (".png", lambda: flat_png(SIDE, SIDE, 8, 0)),
    "PNG, giant, one bit": (".png", lambda: flat_png(SIDE, SIDE, 1, 0)),
    "PNG, giant, 16 bits": (".png", lambda: flat_png(SIDE, SIDE, 16, 0)),
    "PNG, giant, palette": (".png", lambda: flat_png(SIDE, SIDE, 8, 3)),
    "PNG, giant, transparent palette": (
        ".png", lambda: flat_png(SIDE, SIDE, 8, 3, chunk(b"tRNS", bytes(9)))),
    "PNG, giant, RGBA": (".png", lambda: flat_png(SIDE, SIDE, 8, 6)),
    "PNG, giant, RGBA of 16 bits": (".png", lambda: flat_png(SIDE, SIDE, 16, 6)),
    "PNG, 300,000 chunks": (".png", lambda: flat_png(9, 9, 8, 0, *[chunk(b"teSt", b"")] * 300_000)),
    "PNG, profile of 100 MB": (".png", lambda: flat_png(
        9, 9, 8, 2, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000_000))))),
    "GIF, giant": (".gif", lambda: saved("P", (SIDE, SIDE), "GIF")),
    "GIF, 20,000 frames": (".gif", lambda: pages(20_000)),
    "TIFF, giant, deflate": (".tif", lambda: saved(
        "RGB", (SIDE, SIDE), "TIFF", compression="tiff_deflate")),
    "TIFF, giant, fax": (".tif", lambda: saved("1", (SIDE, SIDE), "TIFF", compression="group4")),
    "PPM, giant": (".ppm", lambda: f"P6 {SIDE} {SIDE} 255\n".encode() + bytes(SIDE * SIDE * 3)),
    "WEBP, giant": (".webp", lambda: saved("RGB", (16_383, 5_461), "WEBP", method=0)),
}  # fmt: skip


def check_cost(number: int, folder: Path, reference: Path) -> Outcome:
    name, (suffix, make) = list(WORST.items())[number]
    shutil.rmtree(folder / "worst", ignore_errors=True)
    (folder / "worst").mkdir(parents=True)
    path = folder / "worst" / f"file{suffix}"
    path.write_bytes(data := make())
    name += f" ({len(data) / 1e6:.1f} MB)"
    words = ["embed", reference / "runs" / "half", path, "-o", folder / "worst" / "v.npz"]
    try:
        result = run(words, folder / "command", seconds=120, env=cache_of(folder))
    except TimedOut as error:
        return Outcome(name, Verdict.HANG, str(error))
    verdict, detail = of_command(result.status, result.err, (path.name,))
    if result.seconds > SECONDS:
        verdict, detail = Verdict.HANG, f"{result.seconds:.0f} s of computing, {detail}"
    elif result.megabytes > MEGABYTES:
        verdict, detail = Verdict.CRASH, f"{result.megabytes:,.0f} MB, {detail}"
    return Outcome(name, verdict, detail, result.seconds, result.megabytes)
