"""Who can reach an address, and that others than this machine's people give a password."""

import ipaddress


def check_address(host: str, password: str | None, *, share: bool) -> None:
    """Refuse a page that others reach and that asks them for no password.

    Raises:
        ValueError: `password` is not given.
    """
    if password is not None and not password.strip():
        raise ValueError("password: it is empty; give one, or leave it out")
    if password is None and share:
        raise ValueError("share=true: everybody with the link can use the page; give it a password=…")
    if password is None and not is_of_this_machine(host):
        raise ValueError(f"host={host}: other machines can use the page; give it a password=…")


def is_of_this_machine(host: str) -> bool:
    """Whether only this machine reaches the address `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
