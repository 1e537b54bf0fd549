"""Malformed image files that the app must reject, and unusual ones that it must accept."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png(width: int, height: int, depth: int, color: int, rows: bytes, crc: int | None = None) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0), crc)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def bomb() -> bytes:
    """900 million pixels in less than a megabyte."""
    return png(30_000, 30_000, 1, 0, (b"\0" + b"\0" * 3750) * 30_000)


def grey16(image: Image.Image) -> bytes:
    """A PNG of 16 bits a pixel."""
    grey = image.convert("L")
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">H", grey.getpixel((x, y)) * 257) for x in range(grey.width))
        for y in range(grey.height)
    )
    return png(grey.width, grey.height, 16, 0, rows)


def refused(good: Image.Image) -> dict[str, bytes]:
    """Name of a file -> bytes that are not a usable image."""
    whole, photo = encoded(good, "PNG"), encoded(good, "JPEG")
    return {
        "empty.png": b"",
        "one-byte.png": b"\x89",
        "signature.png": whole[:8],
        "header.png": whole[:40],
        "half.png": whole[: len(whole) // 2],
        "crc.png": png(8, 8, 8, 0, b"\0" * 72, crc=1),
        "no-rows.png": png(64, 64, 8, 2, b""),
        "negative.png": png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"),
        "zero.png": png(0, 0, 8, 2, b"\0"),
        "bomb.png": bomb(),
        "dot.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "thread.png": encoded(Image.new("RGB", (3000, 2)), "PNG"),
        "half.jpg": photo[: len(photo) // 3],
        "header.jpg": photo[:20],
        "half.webp": encoded(good, "WEBP")[:60],
        "page.png": b"<!doctype html><script>alert(1)</script>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "text.jpg": b"hello\n" * 100,
        "zeros.gif": b"\0" * 1000,
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n(/etc/passwd) (r) file\nshowpage\n",
        "paper.png": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
        "archive.png": b"PK\x03\x04" + b"\0" * 200,
        "weights.png": b"\x80\x04\x95cos\nsystem\n",
    }


def accepted(good: Image.Image) -> dict[str, bytes]:
    """Name of a file -> bytes of an unusual file with the content of ``good``."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    frames = [good.convert("P"), Image.new("P", good.size)]
    return {
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "print.jpg": encoded(good.convert("CMYK"), "JPEG", quality=95),
        "turned.jpg": encoded(good.rotate(90), "JPEG", exif=exif, quality=95),
        "palette.png": encoded(good.convert("P"), "PNG"),
        "clear.png": encoded(good.convert("RGBA"), "PNG"),
        "modern.webp": encoded(good, "WEBP", lossless=True),
        "pages.tiff": encoded(good, "TIFF"),
        "plain.bmp": encoded(good, "BMP"),
        "png-named.jpg": encoded(good, "PNG"),
        "..%2f..%2fetc%2fpasswd.png": encoded(good, "PNG"),
    }
