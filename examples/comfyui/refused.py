"""The one kind of failure of these nodes that is the user's to mend."""


class Refused(ValueError):
    """One sentence: what cannot be, where, and what to do."""
