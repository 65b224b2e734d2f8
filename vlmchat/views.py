"""The pictures that an answer comes with: its boxes and masks, or where the model looked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmchat.errors import UserError

if TYPE_CHECKING:
    from vlmchat.images import Picture
    from vlmchat.model.mask_decoder import MaskDecoder
    from vlmchat.overlay import Scene
    from vlmchat.session import Session, Turn

SUFFIXES = (".png", ".jpg", ".jpeg")  # of files that a picture is saved to


def boxes(turn: Turn, decoder: MaskDecoder | None = None) -> Scene | None:
    """An answer's picture with the boxes (and masks) in it; None where there are none."""
    from vlmchat import overlay

    if turn.picture is None or not turn.detections:
        return None
    if decoder is None:
        return overlay.boxes(turn.picture.image, turn.detections)
    from vlmchat.mask_file import masks_of

    masks = masks_of(turn.detections, decoder)
    return overlay.boxes(turn.picture.image, turn.detections, masks)


@dataclass(frozen=True)
class Look:
    """Where the model looked: the picture lit up, and in numbers.

    `share` is how much of its attention went to the image, `peak` the (x, y) of the patch that drew
    most, in pixels of the image.
    """

    scene: Scene
    share: float
    peak: tuple[int, int]


def look(session: Session, word: str = "", layer: int | None = None) -> Look:
    """Where it looked while the last answer, or `word` of it, was written.

    The mean over its tokens and heads, and over all layers unless `layer` (from 1) is given. It
    becomes what `save` writes. Raises UserError.
    """
    from vlmchat import explain, overlay

    turn, picture = _last_seen(session)
    layers = session.engine.config.text.layers
    if layer is not None and not 1 <= layer <= len(layers):
        raise UserError(f"there is no layer {layer}: choose one from 1 to {len(layers)}")
    tokens = slice(None) if not word else explain.tokens_of(word, turn.pieces)
    weights = explain.attention(session.engine, picture, turn.reply)
    chosen = weights if layer is None else weights[layer - 1 : layer]
    patches = chosen[:, tokens].mean((0, 1))  # (P,)
    side = round(len(patches) ** 0.5)
    row, column = divmod(int(patches.argmax()), side)
    width, height = picture.size
    session.looked = overlay.attention(picture.image, patches.view(side, side).numpy())
    return Look(
        session.looked,
        share=float(patches.sum()),
        peak=(int((column + 0.5) * width / side), int((row + 0.5) * height / side)),
    )


def _last_seen(session: Session) -> tuple[Turn, Picture]:
    """The last answer and its picture; UserError where there is none."""
    if not session.turns:
        raise UserError("no answer yet: ask something about an image first")
    turn = session.turns[-1]
    if turn.picture is None:
        raise UserError("the last answer had no image: load one with /image and ask about it")
    return turn, turn.picture


def save(session: Session, path: Path) -> None:
    """Write the picture that was shown last, at its full size, to a PNG or JPEG file.

    That is what `look` drew over it, or else the boxes of the last answer. Raises UserError.
    """
    scene = session.looked
    if scene is None and session.turns:
        scene = boxes(session.turns[-1], session.mask_decoder)
    if scene is None:
        raise UserError("there is no picture to save: use /detect, /segment or /look first")
    form = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    try:
        scene.full().save(path, form)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error
