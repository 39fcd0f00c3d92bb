"""Who asks. On a laptop whoever opened the printed link; elsewhere whom a trusted proxy names, or an API token.

Nobody's word counts as a decision: that takes a signature by a key of the keyring. Whoever the proxy or the token names
may only hand in signatures of their own.
"""

import hmac
import logging
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from expunge.configuration import ConsoleSettings
from expunge.contracts import Person
from expunge.digests import sha256_bytes
from expunge.evidence.decisions import same_person
from expunge.evidence.keys import Keyring, KeyringEntry, Role

COOKIE = "expunge_session"
_LOG = logging.getLogger(__name__)
_PERSON: TypeAdapter[str] = TypeAdapter(Person)
_SESSIONS = 20  # of one person's browsers: the oldest goes

How = Literal["session", "proxy", "token"]


@dataclass(frozen=True)
class Asking:
    """Somebody whom the console knows."""

    person: str | None  # null: whoever holds a laptop's link, and said no name
    how: How
    secret: str  # what their CSRF token is made from

    def is_program(self) -> bool:
        """Whether it shows what no browser adds by itself: then no page of others can have made it ask."""
        return self.how == "token"


class Unknown(Exception):
    """The console does not know who asks; the text says what to do about it, and is shown."""


class Identity:
    """How this console knows people."""

    def __init__(self, settings: ConsoleSettings | None, person: str | None = None) -> None:
        self._settings, self._person = settings, person
        self._networks = tuple(ip_network(one) for one in settings.proxies) if settings else ()
        self._link = secrets.token_urlsafe(32)
        self._sessions: list[str] = []  # digests
        self._csrf = secrets.token_bytes(32)
        self._lock = threading.Lock()

    @property
    def link_token(self) -> str:
        """What the printed link holds. It opens one session."""
        return self._link

    @property
    def is_for_one(self) -> bool:
        """Whether this is a laptop's console."""
        return self._settings is None

    def enter(self, token: str) -> str | None:
        """A new session for whoever shows the printed link, once; None for anybody else."""
        with self._lock:
            if self._settings is not None or not hmac.compare_digest(token.encode(), self._link.encode()):
                return None
            self._link = secrets.token_urlsafe(32)  # nobody knows this one
            session = secrets.token_urlsafe(32)
            self._sessions = [*self._sessions[1 - _SESSIONS:], sha256_bytes(session.encode())]
            return session

    def of(self, connection: HTTPConnection) -> Asking:
        """Who makes a request; Unknown if that cannot be told."""
        scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            return self._by_token(scheme, shown.strip())
        if self._settings is None:
            return self._by_session(connection.cookies.get(COOKIE, ""))
        return self._by_proxy(connection)

    def _by_session(self, session: str) -> Asking:
        digest = sha256_bytes(session.encode(errors="replace"))
        if not any(hmac.compare_digest(digest, known) for known in self._sessions):
            raise Unknown("open the link that 'expunge console' has printed; each start prints another")
        return Asking(self._person, "session", digest)

    def _by_token(self, scheme: str, shown: str) -> Asking:
        digest = sha256_bytes(shown.encode(errors="replace"))
        found = [one for one in (self._settings.tokens if self._settings else ())
                 if hmac.compare_digest(one.sha256, digest)]
        if scheme.lower() != "bearer" or not found:
            raise Unknown("this token is nobody's here")
        return Asking(found[0].person, "token", digest)

    def _by_proxy(self, connection: HTTPConnection) -> Asking:
        assert self._settings is not None
        named = connection.headers.getlist(self._settings.person_header)
        host = connection.client.host if connection.client else ""
        if not self._trusts(host):
            if named:
                _LOG.warning("a request from %s names a person, and no proxy is there", host)
            raise Unknown("come by way of the proxy, or show an API token")
        try:
            person, = named
            return Asking(_PERSON.validate_python(person), "proxy", person)
        except (ValueError, ValidationError):
            raise Unknown(f"the proxy has to name one person in {self._settings.person_header}") from None

    def _trusts(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)

    def csrf_token(self, asking: Asking) -> str:
        """What a page of ours sends along with every change, and no page of others can know."""
        return hmac.digest(self._csrf, asking.secret.encode(), "sha256").hex()

    def is_csrf_token(self, asking: Asking, shown: str) -> bool:
        """Whether it is the one of whoever asks."""
        return hmac.compare_digest(shown.encode(errors="replace"), self.csrf_token(asking).encode())


def entries_of(keyring: Keyring, person: str | None) -> tuple[KeyringEntry, ...]:
    """The keys of a person that count now, however the name is written."""
    if person is None:
        return ()
    return tuple(entry for entry in keyring.entries if entry.counts_now and same_person(entry.person, person))


def roles_of(entries: Iterable[KeyringEntry]) -> tuple[Role, ...]:
    """What somebody may do, by all of their keys."""
    return tuple(dict.fromkeys(role for entry in entries for role in entry.roles))
