"""Numbers in words."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """Gives a number with what is counted: ``1 image``, ``2 images``.

    Args:
        count: The number.
        one: What is counted, if it is one.
        many: If it is another number of them; by default with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Gives a time in words: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
