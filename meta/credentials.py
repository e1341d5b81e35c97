"""Passwords in URLs of databases, which are in none of the files and messages of this project."""

import contextlib
import functools
import getpass
import os
import re
import sys
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from l2o.errors import UserError

VARIABLE = "L2O_STORAGE_PASSWORD"
MASK = "***"
_USER = re.compile(r"^[^:/?]+://[^:/]*:([^@]*)@|^(?!.*://)[^@]*:([^/:@][^@]*)@", re.DOTALL)  # the latter: no URL at all
_NAMED = re.compile(  # in a query, also within the connection string of an ODBC driver
    r"(?:[?&;=]|%3B)[^?&;=%]*(?:passw|pwd|secret|token)[^?&;=%]*(?:=|%3D)(%7B.*?%7D|\{.*?\}|(?:(?!%3B)[^&;])*)",
    re.IGNORECASE | re.DOTALL,
)


def split(url: str) -> tuple[str, tuple[str, ...]]:
    """A URL with every password masked, and the passwords as they stood there, in order.

    None are given where they are masked already.

    Raises:
      ValueError: an @ within the password makes it ambiguous.

    >>> split("postgresql://me:a%2Fb@host/studies?sslpassword=c")
    ('postgresql://me:***@host/studies?sslpassword=***', ('a%2Fb', 'c'))
    """
    spans, rest = [], 0
    user = _USER.match(url)
    if user is not None:
        spans.append(user.span(1 if user.group(1) is not None else 2))
        rest = user.end()
        if "@" in url[rest:]:
            raise ValueError(
                f"the URL has another @ after its user: expected %40 for it, or the password in {VARIABLE}"
            )
    spans += [found.span(1) for found in _NAMED.finditer(url, rest)]
    kept, end = "", 0
    for first, last in spans:
        kept, end = kept + url[end:first] + MASK, last
    passwords = tuple(url[first:last] for first, last in spans)
    return kept + url[end:], () if set(passwords) <= {MASK} else passwords


def complete(url: str, passwords: tuple[str, ...]) -> str:
    """The URL again that `split` took apart.

    Without passwords, one is taken from the environment variable `L2O_STORAGE_PASSWORD`; where the URL had one and the
    variable is not set, it is asked for on the terminal. A URL with a user and no password gets that of the variable.

    Raises:
      UserError: the URL had a password, and there is none now.
    """
    if MASK in url and not passwords:
        passwords = (quote(os.environ.get(VARIABLE) or _asked(url), safe=""),) * url.count(MASK)
    if MASK in url:
        text, *others = url.split(MASK)
        return text + "".join(password + after for password, after in zip(passwords, others, strict=True))
    password = quote(os.environ.get(VARIABLE, ""), safe="")
    return re.sub(r"^([^:/?]+://[^:/@]+)@", lambda found: f"{found[1]}:{password}@", url) if password else url


@functools.cache  # a training reads the storage twice
def _asked(url: str) -> str:
    password = ""
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            password = getpass.getpass(f"password of {url}: ")
    if not password:
        raise UserError(f"{url} needs a password, which is kept nowhere: expected it in {VARIABLE}, or on a terminal")
    return password


def without_password(text: str) -> str:
    """A text, such as an argument or a message, in which the passwords in URLs are masked, and rather too much.

    >>> without_password("--set=source.url=mysql://me:p@ss w@host/studies")
    '--set=source.url=mysql://me:***@host/studies'
    """
    text = re.sub(r"(://[^:/]*:)(?:(?!://).)*@", rf"\1{MASK}@", text, flags=re.DOTALL)
    if "://" not in text:
        return text

    def mask(found: re.Match[str]) -> str:
        given = found[1].startswith(MASK)  # what comes after it in a message is none of it
        return found[0] if given else found[0][: found.start(1) - found.start(0)] + MASK

    return _NAMED.sub(mask, text)


def masked(data: Any) -> Any:
    """Plain data, such as a document, with `without_password` in every text."""
    if isinstance(data, dict):
        return {name: masked(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [masked(value) for value in data]
    return without_password(data) if isinstance(data, str) else data


def without(text: str, passwords: tuple[str, ...]) -> str:
    """A text of somebody else without these passwords, as they are or decoded."""
    for password in {form for each in passwords for form in (each, unquote(each), unquote_plus(each)) if form}:
        text = re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", MASK, text)
    return without_password(text)
