"""The ways to ask: what a person may type instead of `what colour is it`.

`{c}` is colour or color, `{x}` the thing that is asked about, `{a}` its article. The wordings that
end in `_UNHEARD` are never trained on: `evaluate` asks with them, to see whether the model learnt
questions or only sentences.
"""

COLOUR_OF_IT = (
    *("what {c} is it", "which {c} is it", "what is the {c}", "what {c} is this"),
    *("what {c} is the shape", "what {c} is the object", "which {c} does it have"),
)
COLOUR_OF = (
    *("what {c} is the {x}", "which {c} is the {x}", "what is the {c} of the {x}"),
    *("what {c} does the {x} have", "the {x} is what {c}"),
)
SHAPE_OF_IT = (
    *("what shape is it", "which shape is it", "what shape is this", "what is the shape"),
    *("what shape do you see", "which shape is this", "what shape is the object"),
    "what shape is shown",
)
SHAPE_OF = (
    *("what shape is the {x} object", "which shape is {x}", "what is the {x} object"),
    *("what shape is {x}", "what shape is the {x} one", "what is the {x} thing"),
)
WHAT_IS_IT = (
    *("what is this", "what is it", "what do you see", "what is in the picture"),
    *("what is in the image", "what is shown", "describe the object"),
)
WHAT_ARE_THEY = (
    *("what do you see", "what is in the picture", "what is in the image"),
    *("what is shown", "describe the picture", "what is this"),
)
HOW_MANY = (
    *("how many {x} are there", "how many {x} do you see", "how many {x}", "count the {x}"),
    *("what is the number of {x}", "how many {x} are in the picture", "how many {x} can you see"),
)
WHERE_IS_IT = ("where is it", "where is the object", "where is the shape")
WHERE_IS = (
    *("where is the {x}", "where is the {x} located", "where do you see the {x}"),
    "in which part of the picture is the {x}",
)
IS_THERE = (
    *("is there {a} {x}", "do you see {a} {x}", "can you see {a} {x}"),
    *("is there {a} {x} in the picture", "does the picture show {a} {x}"),
)
WHICH_SIZE = (
    *("what is the {x} object", "which object is the {x}", "which shape is {x}"),
    "what is the {x} shape",
)
LARGEST, SMALLEST = ("largest", "biggest"), ("smallest", "tiniest")
REAL_THINGS = (
    *("dog", "cat", "person", "car", "tree", "house", "bird", "man", "bicycle", "table"),
)
NONSENSE = (
    *("what animal is this", "who is in the picture", "what is the man doing"),
    *("how old is the dog", "what time is it", "what is the weather like"),
    *("what is the name of the city", "what does the sign say", "what brand is the car"),
    *("where is the cat", "what colour is the car", "what is the woman wearing"),
    *("what sport is this", "which country is this", "what is he eating", "where is the tree"),
    *("what is on the table", "what colour is the dog", "how many people are there"),
    *("what shape is the house", "why is it raining", "what is behind the door"),
)

COLOUR_UNHEARD = (
    *("tell me the {c}", "what {c} do you see", "what {c} is the thing", "which {c} is the shape"),
    "what is the {c} of it",
)
SHAPE_UNHEARD = (
    *("tell me the shape", "what shape can you see", "what shape does it have"),
    *("which shape is the object", "what is the shape of it"),
)
