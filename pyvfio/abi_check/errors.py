"""What keeps a check from being made; a difference is a result, not an error."""


class AbiCheckError(Exception):
    """No compiler, headers it does not accept, or no such mirror: one sentence, with what to do about it."""
