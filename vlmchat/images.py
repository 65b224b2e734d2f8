"""Image files: found by the many ways a terminal writes a path, and read without trusting them."""

import hashlib
import os
import re
import shlex
import stat
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Few formats, on purpose: Pillow's rarer readers are where its security holes were.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
MAX_FILE_BYTES = 64 * 2**20
MAX_PATH_CHARACTERS = 4096


class ImageError(UserError):
    """An image that cannot be had."""


@dataclass(frozen=True)
class Picture:
    """One image: RGB as it is to be seen, its name, and the SHA-256 of its file as its key.

    `note` says what was left out of the file, if anything.
    """

    name: str
    image: "Image"
    key: str
    note: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size


def load_picture(source: Path | bytes, name: str | None = None) -> Picture:
    """Read an image from a path or from the bytes of a file; raises ImageError.

    EXIF orientation is applied, transparency is laid on white, sixteen bits are scaled to eight,
    and of an animation the first frame is taken.
    """
    if isinstance(source, bytes):
        name, data = name or "the image", source
    else:
        name, data = name or source.name, _read(source)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: larger than {MAX_FILE_BYTES >> 20} MB: make it smaller first")
    image, note = _decode(name, data)
    return Picture(name, image, hashlib.sha256(data).hexdigest(), note)


def _read(path: Path) -> bytes:
    """The bytes of a regular file, at most one more than the limit."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ImageError(f"{path}: not a file: give the path of an image file")
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file: check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder: give the path of an image in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path}: cannot be read ({reason}): check the file") from error


def _open_at_once(path: str, flags: int) -> int:
    """An open that does not wait for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode(name: str, data: bytes) -> tuple["Image", str | None]:
    """Pixels of a file's bytes, and a note on what was left out.

    Pillow's readers raise many kinds of error on damaged files (SyntaxError and RuntimeError among
    them), and all of them mean one thing to a person.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as opened:
                frames = getattr(opened, "n_frames", 1)
                opened.load()
                image = _rgb(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: too many pixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        hint = "convert it to JPEG or PNG" if _is_heic(data) else f"use {', '.join(FORMATS)}"
        kind = "a HEIC image" if _is_heic(data) else "no image that can be read here"
        raise ImageError(f"{name}: {kind}: {hint}") from error
    except Exception as error:
        raise ImageError(f"{name}: damaged ({_first_line(error)}): check the file") from error
    return image, f"the first of {frames} frames" if frames > 1 else None


def _rgb(image: "Image") -> "Image":
    """Any mode to RGB, keeping what a person would see."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        # convert() would clip at 255 instead of scaling
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heif", b"mif1", b"hevc")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def find_path(text: str) -> Path | None:
    """The existing file that a typed, pasted or dropped path means; None where there is none.

    The text as it stands comes first, since a name may hold anything; then `file://` addresses,
    quotes and backslashes as a shell reads them, and `~`.
    """
    text = text.strip()
    if not text or len(text) > MAX_PATH_CHARACTERS:
        return None
    forms = [text, *_as_shell_word(text)]
    forms += [path for form in forms for path in _from_address(form)]
    forms += [path for form in forms for path in _from_home(form)]
    return next((Path(form) for form in forms if os.path.exists(form)), None)


def _as_shell_word(text: str) -> list[str]:
    """What a shell reads, if that is one word."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote without its other half
        return []
    return words if len(words) == 1 else []


def _from_address(text: str) -> list[str]:
    """The path of a `file://` address."""
    from urllib.request import url2pathname  # slow to import, and rarely needed

    try:
        return [url2pathname(urlsplit(text).path)] if text.lower().startswith("file://") else []
    except ValueError:  # brackets where a host would be
        return []


def _from_home(text: str) -> list[str]:
    """The path with `~` or `~name` written out."""
    try:
        return [os.path.expanduser(text)] if text.startswith("~") else []
    except ValueError:  # a name that no user can have
        return []


def split_path(line: str) -> tuple[Path, str] | None:
    r"""The image file whose path a line begins with, and what follows; None where there is none.

    `'my cat.png' what is this?` and `my\ cat.png what is this?` and, where such a file is there,
    `my cat.png what is this?`. Only names with an image's suffix count.
    """
    line = line.strip()
    ends = [match.start() for match in re.finditer(r"(?=\s)|$", line)]
    ends = [end for end in ends if end <= MAX_PATH_CHARACTERS]
    for end in reversed(ends):  # the longest path wins
        head = line[:end].strip()
        if not head.strip("'\"").lower().endswith(SUFFIXES):
            continue
        path = find_path(head)
        if path is not None and path.is_file():
            return path, line[end:].strip()
    return None
