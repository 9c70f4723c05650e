"""Which conversation does a turn belong to, and who owns it?

A session is known by the client's key, or else by its tokens: the longest known conversation of
the same tenant whose tokens are a prefix of the prompt and reach past a reply that this server
wrote. A shared system prompt alone never joins two conversations, because only whole
prompt-and-reply sequences are remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from serving.core.prefix import chain, chain_on
from serving.messages import WorkerId
from serving.request import SessionId, Turn


@dataclass(slots=True, eq=False)
class Session:
    """A conversation; `owner` holds its KV, if anyone.

    Its last prompt and reply are known by the name of their whole pages (`bucket`) and by the
    tokens behind those (`tail`), so a long conversation costs no more memory than a short one.
    `turns` counts all that have come, `live_turns` those that have not ended.
    """

    id: SessionId
    key: tuple[str, str] | None
    owner: WorkerId | None
    bucket: bytes | None
    tail: tuple[int, ...]
    last_used: float
    live_turns: int
    turns: int


class Sessions:
    """The only writer of the table of sessions: bounded, least recently used leave first."""

    def __init__(self, *, max_sessions: int, ttl_s: float, page_size: int) -> None:
        """Start empty. `page_size` sets the grain of the prefix index only."""
        self._max_sessions = max_sessions
        self._ttl_s = ttl_s
        self._page_size = page_size
        self._opened = 0
        self._by_id: dict[SessionId, Session] = {}  # least recently used first
        self._by_key: dict[tuple[str, str], Session] = {}
        # By their whole pages, then by what is behind: least recently used first.
        self._buckets: dict[bytes, dict[tuple[int, ...], dict[SessionId, Session]]] = {}
        self._owned: dict[WorkerId, int] = {}

    def __len__(self) -> int:
        """Count the sessions remembered."""
        return len(self._by_id)

    @property
    def next_id(self) -> SessionId:
        """The name of the session that is opened next."""
        return SessionId(f"s{self._opened + 1}")

    def join(self, turn: Turn, now: float) -> Session:
        """Find the turn's session or open one, and count the turn as live in it."""
        session = self.find(turn)
        if session is None:
            session = self._open(None if turn.session is None else (turn.salt, turn.session), now)
        session.live_turns += 1
        session.turns += 1
        self._touch(session, now)
        return session

    def find(self, turn: Turn) -> Session | None:
        """Find the turn's session, if it is one that was there before."""
        if turn.session is None:
            return self._by_prefix(turn)
        return self._by_key.get((turn.salt, turn.session))

    def leave(self, session: Session, now: float) -> None:
        """A turn of the session ended without anything worth remembering."""
        session.live_turns -= 1
        self._touch(session, now)

    def remember(
        self, session: Session, known: Sequence[bytes], tokens: tuple[int, ...], now: float
    ) -> None:
        """A turn ended: the conversation so far is `tokens`, and the next turn may continue it.

        `known` are the first names of its chain.
        """
        self._unindex(session)
        names = chain_on(known, tokens, self._page_size)
        session.bucket = names[-1]
        session.tail = tokens[(len(names) - 1) * self._page_size :]
        self._buckets.setdefault(names[-1], {}).setdefault(session.tail, {})[session.id] = session
        self.leave(session, now)

    def own(self, session: Session, worker: WorkerId) -> None:
        """A session gets an owner, or another one."""
        if session.owner is not None and self._by_id.get(session.id) is session:
            self._owned[session.owner] -= 1
        session.owner = worker
        self._owned[worker] = self.owned_by(worker) + 1

    def owned_by(self, worker: WorkerId) -> int:
        """Count the sessions remembered whose owner is `worker`."""
        return self._owned.get(worker, 0)

    def owned(self) -> dict[WorkerId, int]:
        """Count the sessions remembered by owner; who is missing owns none."""
        return self._owned.copy()

    def disown(self, worker: WorkerId) -> None:
        """A worker is gone: its sessions have no owner, and are placed anew when they return."""
        self._owned.pop(worker, None)
        for session in self._by_id.values():
            if session.owner == worker:
                session.owner = None

    def expire(self, now: float) -> None:
        """Forget sessions idle for longer than the limit."""
        stale = takewhile(lambda s: now - s.last_used > self._ttl_s, self._by_id.values())
        for session in [s for s in stale if not s.live_turns]:
            self._drop(session)

    def _open(self, key: tuple[str, str] | None, now: float) -> Session:
        if len(self._by_id) >= self._max_sessions:
            oldest = next((s for s in self._by_id.values() if not s.live_turns), None)
            if oldest is not None:
                self._drop(oldest)
        session_id = self.next_id
        self._opened += 1
        session = Session(session_id, key, None, None, (), now, 0, 0)
        self._by_id[session.id] = session
        if key is not None:
            self._by_key[key] = session
        return session

    def _touch(self, session: Session, now: float) -> None:
        session.last_used = now
        if self._by_id.pop(session.id, None) is not None:
            self._by_id[session.id] = session
        if session.bucket is not None:
            equal = self._buckets[session.bucket][session.tail]
            equal[session.id] = equal.pop(session.id)

    def _by_prefix(self, turn: Turn) -> Session | None:
        names = chain(turn.salt, turn.tokens, self._page_size)
        for pages in range(len(names) - 1, -1, -1):
            by_tail = self._buckets.get(names[pages])
            if by_tail is None:
                continue
            rest = turn.tokens[pages * self._page_size : (pages + 1) * self._page_size]
            for length in range(len(rest), -1, -1):
                if equal := by_tail.get(rest[:length]):
                    return next(reversed(equal.values()))
        return None

    def _unindex(self, session: Session) -> None:
        if session.bucket is None:
            return
        by_tail = self._buckets[session.bucket]
        del by_tail[session.tail][session.id]
        if not by_tail[session.tail]:
            del by_tail[session.tail]
        if not by_tail:
            del self._buckets[session.bucket]
        session.bucket = None

    def _drop(self, session: Session) -> None:
        self._unindex(session)
        del self._by_id[session.id]
        if session.owner is not None:
            self._owned[session.owner] -= 1
        if session.key is not None:
            del self._by_key[session.key]
