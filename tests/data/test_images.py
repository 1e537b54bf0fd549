"""Every image that is taken becomes the upright RGB picture that a browser shows, whatever its mode and format."""

from __future__ import annotations

import io
import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.support.bad_images import chunk, encoded, grey16, png
from vlmcomp.data.images import open_image

UNDO = {  # EXIF orientation -> what a camera that was held so did to the upright picture
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
LOSSY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "MPO": {"quality": 95, "subsampling": 0, "save_all": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
SAVED = [
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "P tRNS", "RGB", "RGBA", "I;16", "L tRNS", "RGB tRNS")),
    *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    ("MPO", "RGB"),
    *(("AVIF", mode) for mode in ("RGB", "RGBA")),
]
IN_MEMORY = ["1", "L", "LA", "La", "P", "P tRNS", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
IN_MEMORY += ["I", "F", "I;16", "I;16B", "L tRNS", "RGB tRNS"]


def drawing(mode: str) -> Image.Image:
    """A picture without symmetry, transparent in one corner where the mode allows it."""
    picture = Image.new("RGBA", (48, 32), (250, 250, 250, 255))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 15, 15), "red")
    pen.rectangle((16, 0, 31, 15), "black")
    pen.rectangle((0, 16, 15, 31), (0, 0, 255, 0))
    match mode:
        case "RGBA" | "LA" | "P":
            return picture.convert(mode)
        case "RGBa" | "La":
            return picture.convert(mode.upper()).convert(mode)
        case "PA":
            palette = picture.convert("RGB").quantize(8).convert("PA")
            palette.putalpha(picture.getchannel("A"))
            return palette
        case "I;16" | "I;16B":
            values = np.asarray(picture.convert("L"), np.uint16) * 257
            return Image.frombytes(mode, picture.size, values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
        case "I":
            return Image.fromarray(np.asarray(picture.convert("L"), np.int32) * 257)
        case "F":
            return Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255)
        case "P tRNS":
            keyed = picture.convert("RGB").quantize(8)
            keyed.info["transparency"] = keyed.getpixel((4, 20))
            return keyed
        case "L tRNS" | "RGB tRNS":
            keyed = picture.convert("RGB").convert(mode.split()[0])
            keyed.info["transparency"] = keyed.getpixel((4, 20))
            return keyed
    return picture.convert("RGB").convert(mode, dither=Image.Dither.NONE)


def turned(upright: Image.Image, orientation: int) -> tuple[Image.Image, bytes]:
    """The pixels as a camera stores them, and the EXIF data that say so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    method = UNDO[orientation]
    return upright if method is None else upright.transpose(method), exif.tobytes()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image, np.int16)


@pytest.mark.parametrize(("kind", "mode"), SAVED)
def test_a_turned_file_is_the_upright_one(kind: str, mode: str) -> None:
    settings = (LOSSLESS | LOSSY)[kind]
    upright = drawing(mode)
    expected = pixels(open_image(io.BytesIO(encoded(upright, kind, **settings))))
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 1
    for orientation in UNDO:
        stored, exif = turned(upright, orientation)
        found = pixels(open_image(io.BytesIO(encoded(stored, kind, exif=exif, **settings))))
        assert found.shape == expected.shape
        difference = np.abs(found - expected)
        assert difference.max() == 0 if kind in LOSSLESS else difference.mean() < 2, orientation


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["P", "CMYK", "RGB", "1"])
def test_a_turned_tiff_is_upright_in_every_compression(mode: str, compression: str) -> None:
    upright = drawing(mode)
    stored, exif = turned(upright, 6)
    file = io.BytesIO(encoded(stored, "TIFF", exif=exif, compression=compression))
    assert Image.open(file).getexif()[0x0112] == 6
    expected = pixels(open_image(io.BytesIO(encoded(upright, "TIFF", compression=compression))))
    assert np.array_equal(pixels(open_image(file)), expected)


@pytest.mark.parametrize("mode", IN_MEMORY)
def test_a_turned_image_in_memory_is_the_upright_one(mode: str) -> None:
    upright = drawing(mode)
    expected = pixels(open_image(upright))
    for orientation in UNDO:
        stored, exif = turned(upright, orientation)
        stored.info["exif"] = exif
        once = open_image(stored)
        assert np.array_equal(pixels(once), expected) and np.array_equal(pixels(open_image(once)), expected)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa", "P tRNS", "L tRNS", "RGB tRNS", "RGBA AVIF"])
def test_transparent_is_white(mode: str) -> None:
    image = drawing(mode.split(" AVIF")[0])
    source = io.BytesIO(encoded(image, "AVIF", quality=100)) if "AVIF" in mode else image
    corner = pixels(open_image(source))[20:28, 4:12]
    assert corner.min() >= 250


@pytest.mark.parametrize("mode", [*IN_MEMORY, "APNG", "GIF"])
def test_black_stays_black_and_light_grey_light(mode: str) -> None:
    image: Any = drawing("RGBA" if mode in ("APNG", "GIF") else mode)
    if mode in ("APNG", "GIF"):
        frames = {"save_all": True, "append_images": [Image.new("RGBA", image.size, "green")]}
        image = io.BytesIO(encoded(image, mode.removeprefix("A"), **frames))
    found = pixels(open_image(image))
    assert found[4:12, 20:28].max() <= 5 and found[4:28, 40:46].min() >= 245


RAMP = np.linspace(0, 255, 64).round().repeat(4).reshape(16, 16)  # 64 levels of grey


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RAMP.astype(np.int32), id="int32 of 8 bits"),
        pytest.param((RAMP * 257).astype(np.int32), id="int32 of 16 bits"),
        pytest.param((RAMP * (2**31 - 1) / 255).astype(np.int32), id="int32"),
        pytest.param((RAMP * 1000 - 90_000).astype(np.int32), id="int32 below zero"),
        pytest.param((RAMP * 257).astype(np.uint16), id="uint16"),
        pytest.param((RAMP / 255).astype(np.float32), id="float from 0 to 1"),
        pytest.param(RAMP.astype(np.float32), id="float to 255"),
        pytest.param((RAMP * 257).astype(np.float32), id="float to 65535"),
        pytest.param((RAMP / 127.5 - 1).astype(np.float32), id="float from -1 to 1"),
        pytest.param((RAMP * 1e36).astype(np.float32), id="huge floats"),
    ],
)
def test_wide_numbers_are_scaled_to_grey(values: np.ndarray) -> None:
    image = Image.fromarray(values)
    for source in (image, io.BytesIO(encoded(image, "TIFF"))):
        found = pixels(open_image(source))
        assert np.abs(found - RAMP[..., None]).max() <= 1


def test_floats_that_are_no_numbers() -> None:
    values = (RAMP / 255).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = pixels(open_image(Image.fromarray(values)))
    assert found[0, :3, 0].tolist() == [0, 255, 0] and np.abs(found[1:] - RAMP[1:, :, None]).max() <= 1
    with pytest.raises(ValueError, match="no finite number"):
        open_image(Image.fromarray(np.full((8, 8), np.nan, np.float32)))


@pytest.mark.parametrize(
    ("depth", "color", "row", "key", "shown"),
    [
        (16, 0, struct.pack(">4H", 0, 20_000, 40_000, 65_535), struct.pack(">H", 20_000), [0, 255, 156, 255]),
        (16, 2, struct.pack(">12H", *[0] * 3, *[20_000] * 3, *[40_000] * 6), struct.pack(">3H", *[20_000] * 3), None),
        (8, 0, bytes([0, 78, 156, 255]), struct.pack(">H", 78), [0, 255, 156, 255]),
        (4, 0, bytes([0x05, 0xAF]), struct.pack(">H", 5), [0, 255, 170, 255]),
        (2, 0, bytes([0b00011011]), struct.pack(">H", 1), [0, 255, 170, 255]),
        (1, 0, bytes([0b01010000]), struct.pack(">H", 0), [255, 255, 255, 255]),
    ],
)
def test_a_transparent_color_of_any_depth(depth: int, color: int, row: bytes, key: bytes, shown: list | None) -> None:
    file = png(4, 4, depth, color, (b"\0" + row) * 4)
    head = 8 + 25  # signature and IHDR
    found = pixels(open_image(io.BytesIO(file[:head] + chunk(b"tRNS", key) + file[head:])))
    expected = np.array(shown or [0, 255, 156, 156])
    assert np.abs(found[0, :, 0] - expected).max() <= 1


def test_damaged_exif_data_are_no_reason_to_refuse_a_picture() -> None:
    upright = drawing("RGB")
    stored, exif = turned(upright, 6)
    expected = pixels(upright)
    for position in range(6, len(exif)):
        damaged = exif[:position] + bytes([exif[position] ^ 0xFF]) + exif[position + 1 :]
        found = pixels(open_image(io.BytesIO(encoded(stored, "PNG", exif=damaged))))
        assert found.shape in (expected.shape, pixels(stored).shape)
    dated = Image.Exif()
    dated[0x0112], dated[0x0132] = 6, "2020:01:01 00:00:00"
    damaged = dated.tobytes().replace(b"\x01\x32\x00\x02", b"\x01\x3e\x00\x02")  # a text where numbers belong
    assert damaged != dated.tobytes()
    found = pixels(open_image(io.BytesIO(encoded(stored, "PNG", exif=damaged))))
    assert np.array_equal(found, expected)


KEYS: list[Any] = [None, b"", b"\0", b"\xff" * 300, -1, 300, 2.5, "red", [1, 2, 3], (), (1, 2), (1, 2, 3, 4)]
KEYS += [(None, None, None), (1.5, 2, 3), ("a", "b", "c"), {}]


@pytest.mark.parametrize("mode", IN_MEMORY)
def test_a_transparent_color_that_is_none_changes_nothing(mode: str) -> None:
    """Programs write what they like; a color of another mode is no reason to refuse a picture."""
    expected = pixels(open_image(drawing(mode.split()[0])))
    for key in KEYS:
        image = drawing(mode.split()[0])
        image.info["transparency"] = key
        found = pixels(open_image(image))
        if not (image.mode == "P" and isinstance(key, bytes)):
            assert np.array_equal(found, expected), key
        assert image.info["transparency"] is key  # the caller's image stays as it was


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY, "GIF", "BMP"])
def test_a_damaged_file_is_one_sentence(kind: str) -> None:
    rng = random.Random(kind)
    whole = encoded(drawing("RGB"), kind, **(LOSSLESS | LOSSY).get(kind, {}))
    refused = 0
    for _ in range(60):
        file = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(min(len(file), 4)):
            file[rng.randrange(len(file))] = rng.randrange(256)
        try:
            open_image(io.BytesIO(file))
        except ValueError as error:
            refused += 1
            assert str(error).startswith("the image") and "\n" not in str(error)
    assert refused > 15


def test_sixteen_bits_a_pixel_keep_their_greys() -> None:
    ramp = Image.linear_gradient("L").resize((96, 96))
    found = open_image(io.BytesIO(grey16(ramp))).convert("L")
    assert np.abs(np.asarray(found, np.int16) - np.asarray(ramp, np.int16)).max() <= 1


def test_a_format_that_is_not_taken_is_told_what_is(tmp_path: Path) -> None:
    file = tmp_path / "old.ppm"
    file.write_bytes(encoded(drawing("RGB"), "PPM"))
    with pytest.raises(ValueError, match=r"use a PNG, JPEG, WebP, AVIF.*HEIC") as refused:
        open_image(file)
    assert "\n" not in str(refused.value)


def test_a_heic_file_is_told_what_reads_it() -> None:
    """HEIC files are read where pillow-heif is installed, and refused in one sentence where it is not."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200
    hint = "HEIC" if "pillow_heif" in sys.modules else r"HEIC: pip install pillow-heif"
    with pytest.raises(ValueError, match=hint):
        open_image(io.BytesIO(heic))
