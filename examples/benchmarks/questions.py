"""What is asked of every engine: eight questions about an image, as long as people's are.

In Gemma's tokens, of which each word here is one: the first makes a prompt of ten with `<bos>` and
the line's end, the second puts thirteen behind the image and the task's words.
"""

QUESTIONS = [
    "answer en what is on the table here",
    "answer en which colour has the largest of the things that lie in it",
    "answer en how many are there in all",
    "answer en where does it stand",
    "answer en who made it and when",
    "answer en is it new or is it old",
    "answer en what is behind it",
    "answer en what would you call it",
]
