"""No network -> an answer at once instead of half a minute of retries."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def quick_refusal() -> Iterator[None]:
    """Let the hub client go straight to its cache where the hub's name cannot be resolved.

    Measured without a network: huggingface_hub retries each file five times, 23 s for a
    configuration and 47 s for weights, before it says so. Behind a proxy the name need not
    resolve here, so nothing is changed there.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or urllib.request.getproxies() or _resolves(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _resolves(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)
    except OSError:
        return False
    return True


def is_network_error(error: BaseException) -> bool:
    """Tell whether an exception came from a download: sockets, urllib, or a hub client's own."""
    clients = ("huggingface_hub", "httpx", "httpx2", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in clients
