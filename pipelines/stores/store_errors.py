"""What a store raised, as an error for the person at the keyboard."""

from grepr_core.decoding.images import Status
from grepr_core.decoding.read_errors import failure_from_exception
from grepr_core.errors import Unavailable, UserError
from pipelines.stores.object_store import reason


def store_error(place: str, error: Exception) -> UserError:
    """Gives the error that names a place and says why it cannot be opened or listed.

    Args:
        place: Its URL.
        error: One of :data:`pipelines.stores.object_store.STORE_ERRORS`.

    Returns:
        ``Unavailable`` where the store is silent, busy or unwell, which asking again later may change.
    """
    passing = failure_from_exception(error).status is Status.TIMEOUT
    return (Unavailable if passing else UserError)(f"{place}: {reason(error)}")
