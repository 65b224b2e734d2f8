"""Image files: what each kind becomes, how each bad one is refused, and how their paths read."""

import hashlib
import os
import random
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmchat import images
from vlmchat.images import ImageError, find_path, load_picture, split_path

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 7, height: int = 5) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refusal(source: Path | bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_picture(source)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert ": " in message
    return message


def pixel(data: bytes) -> tuple[int, ...]:
    picture = load_picture(data)
    assert picture.image.mode == "RGB"
    return picture.image.getpixel((0, 0))


# What each kind of image becomes.


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP", "AVIF"])
def test_every_format_gives_rgb_and_the_hash_of_its_file(kind):
    data = encoded(noise(), kind)
    picture = load_picture(data, "cat")
    assert (picture.image.mode, picture.size, picture.name) == ("RGB", (7, 5), "cat")
    assert picture.key == hashlib.sha256(data).hexdigest()
    assert picture.note is None


def test_a_file_gives_what_its_bytes_give(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(noise()))
    from_file, from_bytes = load_picture(path), load_picture(path.read_bytes())
    assert from_file.name == "cat.png"
    assert from_file.key == from_bytes.key
    assert from_file.image.tobytes() == from_bytes.image.tobytes() == noise().tobytes()


def test_the_name_that_is_asked_for_wins(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(noise()))
    assert load_picture(path, "pets/cat.png").name == "pets/cat.png"


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 2))
    image.putpalette([9, 9, 9, 200, 0, 0])
    return encoded(image, transparency=0)


MODES = [
    ("white on 1 bit", encoded(Image.new("1", (2, 2), 1)), (255, 255, 255)),
    ("grey", encoded(Image.new("L", (2, 2), 77)), (77, 77, 77)),
    ("palette", encoded(Image.new("RGB", (2, 2), (10, 20, 30)).convert("P", palette=1)), None),
    ("palette, clear", palette_with_transparency(), (255, 255, 255)),
    ("grey, clear", encoded(Image.new("LA", (2, 2), (77, 0))), (255, 255, 255)),
    ("grey, opaque", encoded(Image.new("LA", (2, 2), (77, 255))), (77, 77, 77)),
    ("colour, clear", encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 0))), (255, 255, 255)),
    ("colour, half", encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128))), (255, 127, 127)),
    ("colour, opaque", encoded(Image.new("RGBA", (2, 2), (200, 1, 2, 255))), (200, 1, 2)),
    (
        "one clear colour",
        encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)),
        (255, 255, 255),
    ),
]


@pytest.mark.parametrize(("data", "colour"), [row[1:] for row in MODES], ids=[r[0] for r in MODES])
def test_modes_are_seen_as_a_person_sees_them(data, colour):
    expected = colour or Image.open(BytesIO(data)).convert("RGB").getpixel((0, 0))
    assert pixel(data) == expected


def test_cmyk():
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize(
    ("value", "expected"), [(0, {0}), (40000, {155, 156}), (257, {0, 1}), (65535, {255, 254})]
)
def test_sixteen_bits_are_scaled_and_not_clipped(value, expected):
    data = encoded(Image.fromarray(np.full((3, 3), value, dtype=np.uint16)))
    red, green, blue = pixel(data)
    assert red == green == blue
    assert red in expected


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(encoded(noise(), exif=exif))
    assert np.array_equal(np.asarray(picture.image), UPRIGHT[orientation](np.asarray(noise())))


def test_exif_that_is_nonsense_does_no_harm():
    picture = load_picture(encoded(noise(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert picture.image.tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame_and_says_so(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert load_picture(data).note == "the first of 3 frames"
    assert pixel(data) == (255, 0, 0)


# How what is no image is refused.

REFUSED = [
    ("too many pixels", png_header(10_000, 10_000)),
    ("too many pixels", png_header(20_000, 20_000)),
    ("too many pixels", png_header(1, 2**31 - 1)),
    ("damaged", png_header(5, 5)),
    ("damaged", encoded(noise(50, 50))[:-2000]),
    ("damaged", encoded(noise(50, 50), "JPEG")[:-900]),
    ("no image", png_header(0, 5)),
    ("no image", b""),
    ("no image", b"a text"),
    ("no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("no image", b"%PDF-1.7\n"),
    ("no image", encoded(noise(), "TIFF")),
    ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
]


@pytest.mark.parametrize(("reason", "data"), REFUSED)
def test_refused_in_one_line(reason, data):
    assert reason in refusal(data)


def test_a_refusal_names_the_file(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("dear diary")
    assert refusal(path).startswith("notes.png: ")


def test_a_folder_a_missing_file_and_impossible_names(tmp_path):
    assert "a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "gone.png")
    assert "cannot be read" in refusal(tmp_path / "a\0b.png")
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    assert "cannot be read" in refusal(tmp_path / "\ud800.png")


def test_refusals_leave_no_file_open(tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    (tmp_path / "bad.png").write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "bad.png", Path("/dev/zero")):
        refusal(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 50)
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(noise()))
    assert "larger than" in refusal(path)
    assert "larger than" in refusal(path.read_bytes())


@POSIX
def test_devices_and_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refusal(tmp_path / "pipe.png")
    assert "not a file" in refusal(Path("/dev/zero"))
    assert "not a file" in refusal(Path("/dev/null"))


@POSIX
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(noise()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP", "AVIF"])
def test_damaged_files_raise_nothing_but_image_errors(kind):
    """Bytes changed, cut out and appended at random: an image or an ImageError, never else."""
    whole = encoded(noise(12, 9), kind)
    generator = random.Random(kind)
    messages = []
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.4:
            del data[generator.randrange(len(data)) :]
        try:
            assert load_picture(bytes(data)).image.mode == "RGB"
        except ImageError as error:
            messages.append(str(error))
    assert messages
    assert all(len(message.splitlines()) == 1 for message in messages)


# Paths, as terminals write them.


@pytest.fixture
def cat(tmp_path, monkeypatch) -> Path:
    """A file with a space in its name, in the home folder, which is the current one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my cat.png"
    path.write_bytes(encoded(noise()))
    return path


FORMS = [
    "{plain}",
    "{plain} ",
    "'{plain}'",
    "'{plain}' ",
    '"{plain}"',
    "{escaped}",
    "{escaped} ",
    "{url}",
    "'{url}'",
    "~/my cat.png",
    "~/my\\ cat.png",
    "my cat.png",
    "./my\\ cat.png",
]


def written(form: str, path: Path) -> str:
    escaped = str(path).replace(" ", "\\ ")
    return form.format(plain=path, escaped=escaped, url=path.as_uri())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_path_is_found(form, cat):
    found = find_path(written(form, cat))
    assert found is not None
    assert found.samefile(cat)


@pytest.mark.parametrize("form", FORMS)
def test_a_line_that_begins_with_a_path_is_split(form, cat):
    text = written(form, cat)
    for rest in ("", "what is this?", "is it  a\tcat.png ?"):
        split = split_path(f"  {text} {rest} ")
        assert split is not None
        assert split[0].samefile(cat)
        assert split[1] == rest


@POSIX
@pytest.mark.parametrize("name", ["it's.png", 'a"b.png', "back\\slash.png", "50%20.png", "~.png"])
def test_a_name_may_hold_what_a_shell_would_read(name, tmp_path):
    (tmp_path / name).write_bytes(encoded(noise()))
    assert find_path(str(tmp_path / name)) == tmp_path / name
    assert find_path((tmp_path / name).as_uri()) == tmp_path / name
    assert split_path(f"{tmp_path / name} what?") == (tmp_path / name, "what?")


@POSIX
def test_a_name_may_hold_control_characters(tmp_path):
    path = tmp_path / "a\x1b[31m\nb.png"
    path.write_bytes(encoded(noise()))
    assert find_path(str(path)) == path
    assert load_picture(path).name == path.name


def test_the_longest_path_wins(cat):
    shorter = cat.with_name("my.png")
    longer = cat.with_name("my.png other.png")
    shorter.write_bytes(b"")
    assert split_path("my.png other.png what?") == (Path("my.png"), "other.png what?")
    longer.write_bytes(b"")
    assert split_path("my.png other.png what?") == (Path("my.png other.png"), "what?")


NOTHING = [
    "",
    "   ",
    "what.png is this",
    "what is this?",
    "gone.png",
    "'my cat.png",
    "~nobody-of-that-name/x.png",
    "~a\0b.png",
    "~\ud800.png",
    "a\0b.png",
    "file://[/x.png",
    "file:///%00.png",
    "file://",
    "\ud800.png",
    "x" * 5000 + ".png",
    "x.png " * 20_000,
]


@pytest.mark.parametrize("text", NOTHING, ids=range(len(NOTHING)))
def test_what_names_no_file_is_none(text, cat):
    assert find_path(text) is None
    assert split_path(text) is None


def test_only_image_files_begin_a_line(cat):
    cat.with_name("notes.txt").write_text("x")
    cat.with_name("folder.png").mkdir()
    assert split_path("notes.txt what?") is None
    assert split_path("folder.png what?") is None
    assert find_path("notes.txt") == Path("notes.txt")
