"""The hub: whether it can be reached, found out once and quickly.

Its libraries try again for half a minute where there is no network; who has none wants
to know at once.
"""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

SECONDS = 5
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@functools.cache
def connect() -> bool:
    """Whether the hub answers; where it does not, its libraries use their local copies alone."""
    # Read by huggingface_hub when it is first imported.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(SECONDS))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants

    reachable = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    if not reachable:
        import datasets.config

        # Both libraries look at their own copy of the setting.
        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    return reachable


def reason(error: Exception | None, reachable: bool) -> str:
    """Why something could not be had from the hub, in one line."""
    if not reachable:
        return "the hub cannot be reached and there is no whole local copy"
    return " ".join(str(error or "its files are incomplete").split())[:160]


def _answers(endpoint: str) -> bool:
    """Whether a connection can be opened; behind a proxy only a request would tell."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    place = urlsplit(endpoint)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
