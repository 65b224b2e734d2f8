"""The one error that people see.

Every module that can meet bad input raises its own subclass, so that the program can print one
clear line and go on, while anything else is a bug and shows its traceback.
"""


class UserError(Exception):
    """Something that a person can mend; reads `what is wrong: what to do about it`, in one line."""
