"""Tells systemd how the service is, as sd_notify(3) documents it: one datagram to the socket in NOTIFY_SOCKET."""

import contextlib
import os
import socket

__all__ = ["notify_systemd"]


def notify_systemd(state: str) -> None:
    """Send a state such as ``READY=1``. Does nothing where nobody listens, and never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract names
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
