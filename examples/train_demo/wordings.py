"""The ways to ask: what a person may type instead of `what colour is it`.

`{c}` is colour or color, `{x}` the thing that is asked about, `{a}` its article, `{s}` a side.
Every kind of question has wordings to learn from, and others (`unheard`) that are never trained
on: `evaluate` asks with them, to see whether the model learnt questions or only sentences.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ways:
    """How one thing may be asked: in training, and never in training."""

    heard: tuple[str, ...]
    unheard: tuple[str, ...]


COLOUR_OF_IT = Ways(
    (
        *("what {c} is it", "which {c} is it", "what is the {c}", "what {c} is this"),
        *("what {c} is the shape", "what {c} is the object", "which {c} does it have"),
        *("what {c} does it have", "what {c} do you see", "which {c} is the thing", "the {c}"),
        *("what is its {c}", "tell me its {c}", "name the {c} of the object", "{c}"),
        *("what {c} is that", "which {c} is shown", "tell me the {c} of it"),
    ),
    (
        *("tell me the {c}", "which {c} do you see", "what {c} is the thing"),
        *("which {c} is the shape", "what is the {c} of it", "name its {c}"),
    ),
)
COLOUR_OF = Ways(
    (
        *("what {c} is the {x}", "which {c} is the {x}", "what is the {c} of the {x}"),
        *("what {c} does the {x} have", "the {x} is what {c}", "tell me the {c} of the {x}"),
        *("in what {c} is the {x}", "name the {c} of the {x}", "{c} of the {x}"),
        *("what {c} is this {x}", "the {c} of the {x} is what", "what {c} has the {x}"),
    ),
    (
        *("which {c} does the {x} have", "which is the {c} of the {x}", "the {x} has what {c}"),
        *("in which {c} is the {x}", "the {x} is which {c}"),
    ),
)
SHAPE_OF_IT = Ways(
    (
        *("what shape is it", "which shape is it", "what shape is this", "what is the shape"),
        *("what shape do you see", "which shape is this", "what shape is the object"),
        *("what shape is shown", "what is its shape", "name the shape", "what shape does it have"),
        *("which shape is shown", "tell me the shape of the object", "the shape", "shape"),
        *("what shape is the thing", "which shape does it have", "which shape can you see"),
    ),
    (
        *("tell me the shape", "what shape can you see", "which shape do you see"),
        *("which shape is the object", "what is the shape of it", "tell me its shape"),
    ),
)
SHAPE_OF = Ways(
    (
        *("what shape is the {x} object", "which shape is {x}", "what is the {x} object"),
        *("what shape is {x}", "what shape is the {x} one", "what is the {x} thing"),
        *("what is the shape of the {x} object", "the {x} object is what shape", "what is {x}"),
        *("name the {x} shape", "tell me the shape of the {x} thing", "which object is {x}"),
        *("which shape is the {x} thing", "what shape does the {x} object have"),
    ),
    (
        *("what shape is the {x} thing", "which shape is the {x} object", "name the {x} object"),
        *("which thing is {x}", "which shape does the {x} object have"),
    ),
)
WHAT_IS_IT = Ways(
    (
        *("what is this", "what is it", "what do you see", "what is in the picture"),
        *("what is in the image", "what is shown", "describe the object", "what is that"),
        *("name the object", "what can you see", "what does the picture show", "what's this"),
        *("describe the picture", "which object is this", "tell me what you see", "what is here"),
    ),
    (
        *("what does the image show", "describe the image", "tell me what this is"),
        *("what is in this picture", "what's it"),
    ),
)
WHAT_ARE_THEY = Ways(
    (
        *("what do you see", "what is in the picture", "what is in the image", "what is shown"),
        *("describe the picture", "what is this", "name the objects", "list the objects"),
        *("what can you see", "what does the picture show", "what objects are there"),
        *("which objects do you see", "list all shapes", "what shapes are there"),
        *("tell me what you see", "what are the objects", "which things are in the picture"),
    ),
    (
        *("what does the image show", "describe the image", "which shapes are there"),
        *("name all objects", "list the shapes", "what objects do you see"),
    ),
)
HOW_MANY = Ways(
    (
        *("how many {x} are there", "how many {x} do you see", "how many {x}", "count the {x}"),
        *("what is the number of {x}", "how many {x} are in the picture", "number of {x}"),
        *("how many {x} can you see", "how many {x} does the picture show", "count all {x}"),
        *("tell me how many {x} there are", "how many {x} are shown", "the number of {x}"),
    ),
    (
        *("how many {x} are in the image", "tell me the number of {x}", "count how many {x}"),
        *("how many {x} does the image show", "how many {x} are here"),
    ),
)
WHERE_IS_IT = Ways(
    (
        *("where is it", "where is the object", "where is the shape", "where do you see it"),
        *("where in the picture is it", "where is the thing", "in which part is it"),
    ),
    ("where do you see the object", "where in the image is it", "where can you see it"),
)
WHERE_IS = Ways(
    (
        *("where is the {x}", "where is the {x} located", "where do you see the {x}"),
        *("in which part of the picture is the {x}", "where can the {x} be found"),
        *("where in the picture is the {x}", "find the {x}", "in what part is the {x}"),
        *("tell me where the {x} is", "where's the {x}"),
    ),
    (
        *("where can you see the {x}", "where in the image is the {x}", "in which part is the {x}"),
        *("in which part of the image is the {x}", "tell me where you see the {x}"),
    ),
)
IS_THERE = Ways(
    (
        *("is there {a} {x}", "do you see {a} {x}", "can you see {a} {x}", "is {a} {x} there"),
        *("is there {a} {x} in the picture", "does the picture show {a} {x}"),
        *("is {a} {x} shown", "are there any {p}", "are there {p}", "do you see any {p}"),
        *("can you find {a} {x}", "is there any {x}", "are any {p} there"),
    ),
    (
        *("is there {a} {x} in the image", "does the image show {a} {x}", "can you see any {p}"),
        *("are there any {p} in the picture", "is {a} {x} in the picture"),
    ),
)
BESIDE = Ways(
    (
        *("what is {s} the {x}", "which object is {s} the {x}", "what do you see {s} the {x}"),
        *("what lies {s} the {x}", "what can you see {s} the {x}", "name the object {s} the {x}"),
        *("which thing is {s} the {x}", "what is there {s} the {x}", "what shape is {s} the {x}"),
        *("what is the object {s} the {x}", "{s} the {x} is what", "what is found {s} the {x}"),
    ),
    (
        *("which shape is {s} the {x}", "what object is {s} the {x}", "what thing is {s} the {x}"),
        *("tell me what is {s} the {x}", "name what is {s} the {x}"),
    ),
)
SIDES = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
WHICH_SIZE = Ways(
    (
        *("what is the {x} object", "which object is the {x}", "which shape is {x}"),
        *("what is the {x} shape", "which is the {x} object", "what is the {x} thing"),
        *("name the {x} object", "which object is {x}", "which is {x}", "the {x} object is what"),
        *("which thing is the {x}", "what shape is the {x}", "what is the {x}"),
    ),
    (
        *("which is the {x} shape", "which shape is the {x}", "name the {x} shape"),
        *("which is the {x}", "tell me the {x} object"),
    ),
)
LARGEST, SMALLEST = ("largest", "biggest"), ("smallest", "tiniest")
WHAT_IT_SAYS = Ways(
    (
        *("what does it say", "what does the text say", "what is written", "what is printed"),
        *("read the text", "which word is it", "what text is there", "what word do you see"),
        *("what is the text", "what text do you see", "what is written in the picture", "read it"),
        *("what does the picture say", "which text is in the picture", "what is the word"),
        *("what is written there", "what word is printed", "which number is written"),
        *("what number do you see", "what number is it", "what does the word say"),
    ),
    (
        *("what does the image say", "what is written in the image", "what word is it"),
        *(
            "which text do you see",
            "what text is printed",
            "which word is written",
            "read the word",
        ),
    ),
)
COLOUR_OF_TEXT = Ways(
    (
        *("what {c} is the text", "what {c} is the word", "which {c} is the text"),
        *("what is the {c} of the text", "what {c} are the letters", "in what {c} is it written"),
        *("which {c} do the letters have", "what is the {c} of the letters"),
    ),
    ("which {c} is the word", "what {c} do the letters have", "what is the {c} of the word"),
)
# What may stand around any question that is a sentence.
BEFORE = ("please tell me, ", "tell me, ", "look: ", "hey, ", "so ", "in this picture, ")
BEHIND = (" please", " here", " in this image", " in the picture", " now")
