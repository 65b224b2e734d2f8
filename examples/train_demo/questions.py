"""Questions about a scene, with the answers that whoever drew it knows.

A kind of question is one method: it gives a question about the contents of a scene, or None where
that scene has no such question (nothing can be asked about *the* star where there are two).
Answers are short and always of the same form, as in the mixtures that PaliGemma was tuned on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.train_demo import wordings
from examples.train_demo.answers import (
    NOUNS,
    PLURALS,
    UNANSWERABLE,
    absent_colours,
    absent_shapes,
    beside,
    boxes,
    called,
    largest,
    listing,
    place,
    singled_out,
)
from examples.train_demo.nonsense import draw_nonsense, draw_real_thing
from examples.train_demo.outlines import SHAPES
from examples.train_demo.scene import COLOURS, Contents, Thing
from examples.train_demo.wordings import Ways
from vlmchat.tasks import caption, detect

ABSENT_SHARE = 0.12  # of the questions about something, how many are about something not there
CHATTY_SHARE = 0.12  # of all questions, how many have polite words around them
OCR = "ocr"


@dataclass(frozen=True)
class Question:
    """A prompt as the model gets it, the one right answer, and what kind of question it is."""

    kind: str
    prompt: str
    answer: str


class Asker:
    """Asks about one scene's contents; `unheard` uses the wordings that training never does."""

    def __init__(self, rng: random.Random, contents: Contents, unheard: bool = False) -> None:
        self.rng = rng
        self.things = contents.things
        self.text = contents.text
        self.unheard = unheard

    def any(self) -> Question:
        """A question of any kind; what is wrong for this scene is drawn again."""
        makers, weights = zip(*KINDS.values(), strict=True)
        while True:
            (maker,) = self.rng.choices(makers, weights)
            if question := maker(self):
                return question

    def colour(self) -> Question | None:
        """What colour is it, or is the star."""
        c = self._spelling()
        if len(self.things) == 1 and self.rng.random() < 0.6:
            return self._ask("colour", wordings.COLOUR_OF_IT, self.things[0].colour, c=c)
        if self._about_absent():
            return self._refuse(wordings.COLOUR_OF, c=c, x=self._choice(absent_shapes(self.things)))
        if clear := singled_out(self.things, "shape"):
            thing = self._choice(clear)
            return self._ask("colour", wordings.COLOUR_OF, thing.colour, c=c, x=thing.shape)
        return None

    def shape(self) -> Question | None:
        """What shape is it, or is the red one."""
        if len(self.things) == 1 and self.rng.random() < 0.6:
            return self._ask("shape", wordings.SHAPE_OF_IT, self.things[0].shape)
        if self._about_absent():
            return self._refuse(wordings.SHAPE_OF, x=self._choice(absent_colours(self.things)))
        if clear := singled_out(self.things, "colour"):
            thing = self._choice(clear)
            return self._ask("shape", wordings.SHAPE_OF, thing.shape, x=thing.colour)
        return None

    def count(self) -> Question:
        """How many things, red things, stars or red stars there are."""
        label, plural = self._countable()
        number = len(called(label, self.things))
        return self._ask("count", wordings.HOW_MANY, str(number), x=plural)

    def where(self) -> Question | None:
        """Where in the picture something is."""
        if self._about_absent():
            return self._refuse(wordings.WHERE_IS, x=self._absent_name())
        if not (known := self._known_thing()):
            return None
        thing, name = known
        if (answer := place(thing)) is None:
            return None
        if len(self.things) == 1 and self.rng.random() < 0.4:
            return self._ask("where", wordings.WHERE_IS_IT, answer)
        return self._ask("where", wordings.WHERE_IS, answer, x=name)

    def presence(self) -> Question:
        """Whether something is there, yes or no in equal numbers."""
        if self.rng.random() < 0.15:
            label = draw_real_thing(self.rng, self.unheard)
        elif self.things and self.rng.random() < 0.53:
            label = self._label(self._choice(self.things))
        else:
            label = self._probably_absent()
        answer = "yes" if called(label, self.things) else "no"
        article = "an" if label[0] in "aeio" else "a"
        return self._ask(
            "is there", wordings.IS_THERE, answer, x=label, a=article, p=_plural(label)
        )

    def side(self) -> Question | None:
        """What is left of, right of, above or below something."""
        side = self._choice(list(wordings.SIDES))
        words = self._choice(wordings.SIDES[side])
        if self._about_absent():
            return self._refuse(wordings.BESIDE, s=words, x=self._absent_name())
        if len(self.things) < 2 or not (known := self._known_thing()):
            return None
        answer = beside(known[0], side, self.things)
        return answer and self._ask("side", wordings.BESIDE, answer, s=words, x=known[1])

    def size(self) -> Question | None:
        """Which is the largest or smallest."""
        if len(self.things) < 2:
            return None
        smallest = self.rng.random() < 0.5
        word = self._choice(wordings.SMALLEST if smallest else wordings.LARGEST)
        thing = largest(self.things, smallest)
        return thing and self._ask("size", wordings.WHICH_SIZE, thing.name, x=word)

    def says(self) -> Question | None:
        """What is printed, asked as a person would."""
        if self.text is None:
            if self.rng.random() < 0.85:  # most scenes say nothing
                return None
            return self._refuse(wordings.WHAT_IT_SAYS)
        return self._ask("says", wordings.WHAT_IT_SAYS, self.text.content)

    def ink(self) -> Question | None:
        """What colour the letters are."""
        c = self._spelling()
        if self.text is None:
            if self.rng.random() < 0.9:
                return None
            return self._refuse(wordings.COLOUR_OF_TEXT, c=c)
        return self._ask("ink", wordings.COLOUR_OF_TEXT, self.text.colour, c=c)

    def ocr(self) -> Question | None:
        """What is printed, as the task prompt asks for it."""
        if self.text is None:
            if self.rng.random() < 0.85:
                return None
            return Question(UNANSWERABLE, OCR, UNANSWERABLE)
        return Question("ocr", OCR, self.text.content)

    def caption(self) -> Question:
        """Everything by name, from left to right."""
        return Question("caption", caption("en"), listing(self.things))

    def what(self) -> Question:
        """What is this: the same as the caption, asked as a person would."""
        ways = wordings.WHAT_IS_IT if len(self.things) < 2 else wordings.WHAT_ARE_THEY
        return self._ask("what", ways, listing(self.things))

    def detect(self) -> Question:
        """Find something in the picture: all objects, red stars, stars, or stars and rings."""
        labels = [self._detectable()]
        if self.rng.random() < 0.3:
            labels.append(self._detectable())
        if labels[0] == labels[-1] or "object" in labels:
            labels = labels[:1]
        answer = boxes(self.things, labels)
        kind = UNANSWERABLE if answer == UNANSWERABLE else "detect"
        return Question(kind, detect(labels), answer)

    def nonsense(self) -> Question:
        """Something that no scene can answer."""
        prompt = self._typed(draw_nonsense(self.rng, self.unheard))
        return Question(UNANSWERABLE, prompt, UNANSWERABLE)

    # How a question is put

    def _ask(self, kind: str, ways: Ways, answer: str, **words: str) -> Question:
        template = self._choice(ways.unheard if self.unheard else ways.heard)
        return Question(kind, self._typed(template.format(**words)), answer)

    def _refuse(self, ways: Ways, **words: str) -> Question:
        """The same question about something that is not there."""
        return self._ask(UNANSWERABLE, ways, UNANSWERABLE, **words)

    def _typed(self, question: str) -> str:
        """The question as one person or another types it, behind PaliGemma's task words."""
        if self.rng.random() < CHATTY_SHARE:
            if self.rng.random() < 0.5:
                question = self._choice(wordings.BEFORE) + question
            else:
                question += self._choice(wordings.BEHIND)
        if self.rng.random() < 0.5:
            question = question[0].upper() + question[1:]
        if self.rng.random() < 0.55:
            question += self._choice(("?", "?", " ?", "."))
        return f"answer en {question}"

    # What a question is about

    def _choice(self, choices):  # type: ignore[no-untyped-def]
        return self.rng.choice(choices)

    def _spelling(self) -> str:
        return self._choice(("colour", "color"))

    def _about_absent(self) -> bool:
        return self.rng.random() < (ABSENT_SHARE if self.things else 0.5)

    def _absent_name(self) -> str:
        """A shape, perhaps with a colour, or a colour alone, that nothing here has."""
        kind = self.rng.random()
        if kind < 0.2:
            return f"{self._choice(absent_colours(self.things))} {self._choice(NOUNS)}"
        shape = self._choice(absent_shapes(self.things))
        return shape if kind < 0.7 else f"{self._choice(list(COLOURS))} {shape}"

    def _known_thing(self) -> tuple[Thing, str] | None:
        """A thing, and words that mean no other."""
        names = [
            (thing, name)
            for word, name_of in _NAMES.items()
            for thing in singled_out(self.things, word)
            for name in [name_of(self.rng, thing)]
        ]
        return self._choice(names) if names else None

    def _label(self, thing: Thing) -> str:
        """A name for a thing, whether or not it is the only one of that name."""
        return self._choice(
            (thing.shape, thing.name, thing.name, f"{thing.colour} {self._choice(NOUNS)}")
        )

    def _countable(self) -> tuple[str, str]:
        """Something to count, in the singular and plural; now and then there are none."""
        by = self.rng.choices(("all", "colour", "shape", "name"), weights=(30, 25, 25, 20))[0]
        thing = self._choice(self.things) if self.things else None
        there = thing is not None and self.rng.random() < 0.75
        if by == "all":
            label = self._choice(NOUNS)
        elif by == "colour":
            label = (
                f"{thing.colour if there else self._choice(list(COLOURS))} {self._choice(NOUNS)}"
            )
        elif by == "shape":
            label = thing.shape if there else self._choice(SHAPES)
        else:
            label = thing.name if there else self._probably_absent()
        return label, _plural(label)

    def _detectable(self) -> str:
        """A label to detect: mostly of something that is there."""
        if not self.things or self.rng.random() < ABSENT_SHARE:
            return self._absent_name()
        if self.rng.random() < 0.22:
            return "object"
        thing = self._choice(self.things)
        return self._choice(
            (thing.shape, thing.shape, thing.name, thing.name, f"{thing.colour} object")
        )

    def _probably_absent(self) -> str:
        """Something that is not there, or nearly what is there: the right colour, another shape."""
        thing = self._choice(self.things) if self.things else None
        kind = self.rng.choices(("shape", "colour", "both"), weights=(35, 25, 40))[0]
        if kind == "shape" or thing is None:
            return self._choice(absent_shapes(self.things))
        if kind == "colour":
            return f"{self._choice(absent_colours(self.things))} {self._choice(NOUNS)}"
        if self.rng.random() < 0.5:
            return f"{thing.colour} {self._choice(SHAPES)}"
        return f"{self._choice(list(COLOURS))} {thing.shape}"


def _plural(label: str) -> str:
    """`red stars` of `red star`."""
    before, _, noun = label.rpartition(" ")
    return f"{before} {PLURALS.get(noun, noun + 's')}".strip()


_NAMES: dict[str, Callable[[random.Random, Thing], str]] = {
    "shape": lambda rng, thing: thing.shape,
    "name": lambda rng, thing: thing.name,
    "colour": lambda rng, thing: f"{thing.colour} {rng.choice(NOUNS)}",
}

# The kinds, and how often each is asked against the others.
KINDS: dict[str, tuple[Callable[[Asker], Question | None], float]] = {
    "colour": (Asker.colour, 2.5),
    "shape": (Asker.shape, 2.5),
    "count": (Asker.count, 2.5),
    "where": (Asker.where, 2),
    "is there": (Asker.presence, 2.2),
    "side": (Asker.side, 4.5),
    "size": (Asker.size, 1.2),
    "says": (Asker.says, 3),
    "ink": (Asker.ink, 0.5),
    "ocr": (Asker.ocr, 3.5),
    "caption": (Asker.caption, 2),
    "what": (Asker.what, 1),
    "detect": (Asker.detect, 2),
    UNANSWERABLE: (Asker.nonsense, 0.8),
}
