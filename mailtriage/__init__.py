"""mailtriage sorts customer e-mail: it cleans a mail, gives it three labels, and decides who looks at it."""

__version__ = "0.1.0"
