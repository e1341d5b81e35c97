"""The one exception a person sees."""


class UserError(ValueError):
    """Bad input from a person: a config, a path, a name, a data file, a damaged artifact.

    The message is one sentence that says what was found, where, and what was expected. The command line prints
    it without a traceback and exits with code 2; in Python it is an ordinary `ValueError`.
    """
