"""Questions from outside the world of the drawn scenes, which nothing in a scene can answer.

They are put together from lists, so that there are tens of thousands of them; one in five nouns and
one template in five is kept for the evaluation. `HOLD_OUT_EVERY` decides which.
"""

import random

HOLD_OUT_EVERY = 5
_NOUNS = """
    dog cat horse cow sheep bird fish lion tiger elephant bear monkey mouse rabbit duck chicken
    man woman child boy girl person baby player driver teacher doctor king friend mother father
    car bus truck train bicycle plane boat ship motorcycle tractor helicopter rocket tree flower
    grass leaf forest mountain river sea beach cloud sky rain snow fire sand house door window
    roof street city bridge church school shop kitchen garden room wall floor table chair bed
    lamp sofa phone computer laptop screen keyboard camera clock watch book pen shirt hat shoe
    coat dress jacket bag glasses umbrella helmet glove sock apple banana cake bread pizza
    cheese egg cup plate bottle glass spoon knife fork soup meat ball bat racket kite guitar
    piano drum toy doll robot flag map coin key box ladder
"""
NOUNS = tuple(_NOUNS.split())
PLACES = (
    "France",
    "India",
    "Japan",
    "Brazil",
    "Egypt",
    "Canada",
    "Kenya",
    "Peru",
    "Spain",
    "Italy",
)
_VERBS = """
    doing eating wearing holding saying thinking reading watching buying drinking playing riding
    carrying cooking painting looking going sitting running sleeping
"""
VERBS = tuple(_VERBS.split())
_MATTERS = """
    weather time season temperature price age name brand address city country language sport
    material weight speed title author date year animal breed dish species team game
"""
MATTERS = tuple(_MATTERS.split())
OF_NOUNS = (
    *("what {c} is the {n}", "where is the {n}", "how many {n}s are there", "who owns the {n}"),
    *("how old is the {n}", "what is the {n} {v}", "why is the {n} {v}", "is the {n} {v}"),
    *("what is on the {n}", "what is behind the {n}", "what kind of {n} is this"),
    *("what is the {m} of the {n}", "how big is the {n}", "what is the {n} made of"),
    *("what shape is the {n}", "who is next to the {n}", "does the {n} look happy"),
    *("how much does the {n} cost", "what is left of the {n}", "what is in the {n}"),
    *("how many people are in the {n}", "what brand is the {n}", "when was the {n} built"),
    *("what is the {n} called", "is the {n} old or new", "where did the {n} come from"),
    *("what does the {n} like", "what {c} is the {n} of the {n2}", "what is above the {n}"),
)
OF_ALL = (
    *("what {m} is it", "what {m} is this", "which {m} is this", "what is the {m}"),
    *("who is in the picture", "who is this", "who took this picture", "when was this taken"),
    *("where was this taken", "why is it {v}", "is it day or night", "what is the man {v}"),
    *("what is he {v}", "what is she {v}", "what are they {v}", "who is {v}"),
    *("how is the {m} today", "what is the capital of {p}", "who is the king of {p}"),
    *("how far is it to {p}", "what is {d} plus {d2}", "what is {d} times {d2}"),
    *("how do I get to {p}", "what should I cook", "can you write a poem", "tell me a joke"),
    *("what is the meaning of life", "who are you", "how are you", "hello", "are you a robot"),
    *("what century is it", "is this real", "what happens next", "who won the game"),
    *("write a story about a {n}", "translate this into french", "what is the best {n}"),
)


def draw_nonsense(rng: random.Random, unheard: bool = False) -> str:
    """One such question; `unheard` ones use a template and a noun that training never does."""
    template = rng.choice(_part((*OF_NOUNS, *OF_ALL), unheard))
    nouns = _part(NOUNS, unheard)
    return template.format(
        c=rng.choice(("colour", "color")),
        n=rng.choice(nouns),
        n2=rng.choice(nouns),
        v=rng.choice(VERBS),
        m=rng.choice(MATTERS),
        p=rng.choice(PLACES),
        d=rng.randint(2, 20),
        d2=rng.randint(2, 20),
    )


def draw_real_thing(rng: random.Random, unheard: bool = False) -> str:
    """The name of something that no scene shows."""
    return rng.choice(_part(NOUNS, unheard))


def _part(words: tuple[str, ...], unheard: bool) -> tuple[str, ...]:
    return tuple(
        word
        for i, word in enumerate(words)
        if (i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1) == unheard
    )
