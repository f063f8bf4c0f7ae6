"""Image formats: those that are read, and those that are known and not read.

HEIC, the format of phones, is read where the package pillow-heif is installed.
"""

import struct
from typing import IO

from PIL import Image

from patchpack.data.read_errors import BadImage


def _register_heif() -> bool:
    """Add HEIC to Pillow's formats; return whether that is possible."""
    try:
        from pillow_heif import register_heif_opener  # pyrefly: ignore
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
READS_HEIC = _register_heif()
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *(("HEIF",) if READS_HEIC else ()),
)
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split()
).union(HEIC_SUFFIXES if READS_HEIC else ())
"""Suffixes of image files that are read here and now, lower case."""
UNREAD_SUFFIXES = (
    frozenset(
        ".heic .heif .hif .jxl .jxr .psd .psb .xcf .ai .eps .svg .pdf .cr2 .cr3 .crw .nef .nrw "
        ".arw .dng .orf .raf .rw2 .pef .srw .raw .exr .hdr .pfm .dcm .nii .mha .tga .ico .icns "
        ".pcx .dds .j2k .jpx .jpf .jpc .apng .czi .lsm .nd2 .svs .ndpi .mrxs .fits .fts".split()
    )
    - SUFFIXES
)
"""Suffixes of image files that are known, and not read."""
HEIC_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
)


def open_image(file: IO[bytes]) -> Image.Image:
    """Open an image of one of FORMATS; its pixels are not read, and no size is refused.

    Unlike `Image.open`, this leaves Pillow's own threshold of pixels to the caller's limits.

    Raise BadImage for anything that is not such an image.
    """
    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))  # a build may lack one
        if factory is None or not (accept is None or accept(prefix) is True):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    if prefix[4:8] == b"ftyp" and prefix[8:12] in HEIC_BRANDS and not READS_HEIC:
        raise BadImage("", "is a HEIC image; to read it: pip install 'patchpack[heic]'")
    raise BadImage("", "is not an image, or is empty or damaged at its start")
