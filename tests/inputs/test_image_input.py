"""Pictures: whatever the form, it is converted; what cannot be is refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from input_checks import refused

from anymal_lib.errors import InputError
from anymal_lib.inputs import Image

RED, WHITE = (255, 0, 0), (255, 255, 255)

# Images: what is converted -----------------------------------------------------------------------


def red(mode, size=(6, 4)):
    return PIL.Image.new("RGB", size, RED).convert(mode)


def near(pixel, wanted, tolerance=3):
    return np.abs(np.subtract(pixel, wanted)).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("rgb.png", red("RGB"), {}),
        ("rgb.jpg", red("RGB"), {"quality": 95}),
        ("cmyk.jpg", red("CMYK"), {"quality": 95}),
        ("palette.png", red("P"), {}),
        ("rgba.png", red("RGBA"), {}),
        ("rgb.bmp", red("RGB"), {}),
        ("rgb.webp", red("RGB"), {"lossless": True}),
        ("rgb.gif", red("RGB"), {}),
        ("rgb.tif", red("RGB"), {}),
    ],
)
def test_formats_and_modes_become_rgb(tmp_path, name, image, options):
    image.save(tmp_path / name, **options)
    for source in (tmp_path / name, str(tmp_path / name)):
        loaded = Image(source).load()
        assert (loaded.mode, loaded.size) == ("RGB", (6, 4))
        assert near(loaded.getpixel((2, 2)), RED)
    assert near(Image(image).load().getpixel((2, 2)), RED), "the PIL image itself"


def test_the_content_decides_not_the_suffix(tmp_path):
    red("RGB").save(tmp_path / "x.jpg", format="PNG")
    assert Image(tmp_path / "x.jpg").load().getpixel((0, 0)) == RED


def test_transparency_is_laid_on_white(tmp_path):
    image = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 128))
    palette = PIL.Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    palette.save(tmp_path / "p.png", transparency=0)
    assert Image(tmp_path / "a.png").load().getpixel((0, 0)) == WHITE
    assert near(Image(tmp_path / "a.png").load().getpixel((1, 0)), (255, 127, 127))
    assert [Image(tmp_path / "p.png").load().getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]
    grey = PIL.Image.new("LA", (1, 1), (0, 0))
    assert Image(grey).load().getpixel((0, 0)) == WHITE


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "deep.png")
    loaded = Image(tmp_path / "deep.png").load()
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert list(Image(values).load().tobytes()) == [0, 0, 0, 128, 128, 128, 255, 255, 255]


def test_exif_orientation_is_applied(tmp_path):
    image = PIL.Image.new("RGB", (4, 2), WHITE)
    image.putpixel((0, 0), RED)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees: the top left comes to the top right
    image.save(tmp_path / "turned.png", exif=exif)
    loaded = Image(tmp_path / "turned.png").load()
    assert loaded.size == (2, 4)
    assert loaded.getpixel((1, 0)) == RED


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [red("RGB"), PIL.Image.new("RGB", (6, 4), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image(tmp_path / "a.gif").load().getpixel((0, 0)) == RED


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("layout", ["hw", "hw1", "hw3", "hw4", "1hw", "3hw", "4hw"])
def test_arrays_of_every_layout(dtype, layout):
    full = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    array = np.full((5, 7, 4), full, dtype)
    array[1, 2] = [0, 0, 0, full]
    array = {"hw": array[..., 0]}.get(layout, array[..., : int(layout.strip("hw") or 1)])
    array = np.moveaxis(array, 2, 0) if layout.endswith("hw") and layout != "hw" else array
    loaded = Image(array).load()
    assert (loaded.mode, loaded.size) == ("RGB", (7, 5))
    assert loaded.getpixel((2, 1)) == (0, 0, 0)
    assert loaded.getpixel((1, 2)) == WHITE


@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "f2", "f4", "f8", "i4", "i8", "?", "c8", "O", "U3", "M8[s]"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
@settings(max_examples=300)
def test_any_array_converts_or_is_refused(array):
    try:
        loaded = Image(array).load()
    except InputError as error:
        assert error.subject == "array"
        assert str(array.dtype) in error.got
        return
    assert loaded.mode == "RGB"
    assert sorted(loaded.size)[-1] in array.shape
    assert array.dtype.name in ("uint8", "uint16") or 0 <= array.min() <= array.max() <= 1


@given(hnp.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.just(3))))
@settings(max_examples=50)
def test_rgb_arrays_come_through_unchanged(array):
    for same in (array, np.moveaxis(array, 2, 0), array / 255, array.astype(np.uint16) * 257):
        np.testing.assert_array_equal(np.asarray(Image(same).load()), array)


# Images: what is refused -------------------------------------------------------------------------


def png_claiming(width, height):
    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def half(format):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"only words, no picture", "whole image"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "whole image"),
        (half("PNG"), "whole image"),
        (half("JPEG"), "whole image"),
        (b"\x89PNG\r\n\x1a\n", "whole image"),
        (png_claiming(20_000, 20_000), "whole image"),  # Pillow itself refuses this one
        (png_claiming(10_000, 10_000), "at most 89478485 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_named(tmp_path, content, says):
    (tmp_path / "bad.png").write_bytes(content)
    error = refused(Image(tmp_path / "bad.png"), says)
    assert error.subject == str(tmp_path / "bad.png")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(st.binary(min_size=1, max_size=100), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]))
@settings(max_examples=200)
def test_damaged_files_load_or_raise_input_errors(tmp_path_factory, noise, format):
    buffer = io.BytesIO()
    red("RGB").save(buffer, format=format)
    content = bytearray(buffer.getvalue())
    for i, byte in enumerate(noise):
        content[(i * 31 + byte) % len(content)] = byte
    path = tmp_path_factory.mktemp("x") / "bad.img"
    path.write_bytes(content)
    try:
        assert Image(path).load().mode == "RGB"
    except InputError as error:
        assert error.subject == str(path)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((4, 4), 2.0), "from 2.0 to 2.0"),
        (np.full((4, 4), -0.1), "-0.1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((5, 4, 2), np.uint8), "(5, 4, 2)"),
        (np.zeros((0, 4), np.uint8), "(0, 4)"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "at most"),
        ([[1, 2], [3]], "list"),
        (None, "object"),
    ],
)
def test_bad_arrays_say_what_came(array, says):
    refused(Image(array), "array", says)
