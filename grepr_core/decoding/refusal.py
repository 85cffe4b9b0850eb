"""Why a file is refused, on its way from the module of a format to ``images.decode``, which makes a value of it."""


class Refusal(Exception):  # noqa: N818 - what it says is no error of ours
    """The file is not decoded; the message says why, in words for the person who reads the scores."""


class TooMuchMemory(Refusal):
    """The file claims more bytes of pixels, whatever its size in pixels, than it may take."""


class CutShort(Refusal):
    """The file ends before its picture does."""
