"""What every server's judge has in common: one connection, requests that end in time, and answers that are checked.

A request that fails on its way (no connection, cut, 429, 5xx) is sent again after a pause that grows; one that runs out
of time is not: its time is spent, and who waits for a verdict goes on without (the pipeline's policy). An answer that
can not be believed is refused and never mended.
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Protocol

import httpx
import torch
from jaxtyping import Float32
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from torch import Tensor

from specsync_lib.errors import InputError
from specsync_lib.judge.engines.session import Branch
from specsync_lib.rows import Judge

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
LARGEST_ANSWER_BYTES = 2**25
MORE_THAN_ALL = 1.01  # of probability, with what rounding may add


class ServerFault(InputError):
    """A server that does not answer, or whose answer can not be believed.

    ``passing``: the next try may not meet it.
    """

    def __init__(self, line: str, passing: bool = False) -> None:
        super().__init__(line)
        self.passing = passing


class Unreachable(ServerFault):
    """Nobody answers there, or not in time."""


class Server:
    """One address.

    Parameters
    ----------
    judge : the row's part: url, key_variable, timeout_s, retries, in_flight.

    Raises
    ------
    InputError : the environment variable of the key is not set.
    """

    def __init__(self, judge: Judge) -> None:
        self.url, self._timeout_s, self._retries = judge.url.rstrip("/"), judge.timeout_s, judge.retries
        self._room = threading.BoundedSemaphore(judge.in_flight)
        headers = {}
        if judge.key_variable:
            if not os.environ.get(judge.key_variable):
                raise InputError(f"judge.key_variable: {judge.key_variable} is not set; put the server's key into it")
            headers["Authorization"] = f"Bearer {os.environ[judge.key_variable]}"
        # Neither a proxy nor a redirect: only the row's own address is ever asked.
        limits = httpx.Limits(max_connections=judge.in_flight, max_keepalive_connections=judge.in_flight)
        self._client = httpx.Client(headers=headers, timeout=judge.timeout_s, limits=limits, trust_env=False)

    def ask(self, path: str, body: Mapping | None = None) -> object:
        """The JSON that a path answers; POST with a body, GET without.

        Raises
        ------
        ServerFault : no answer in time, an answer that is no JSON, or a status that is no success.
        """
        tries = Retrying(
            retry=retry_if_exception(lambda error: getattr(error, "passing", False)),
            stop=stop_after_attempt(1 + self._retries),
            wait=wait_random_exponential(FIRST_PAUSE_S, LONGEST_PAUSE_S),
            reraise=True,
        )
        return tries(self._once, path, body)

    def _once(self, path: str, body: Mapping | None) -> object:
        where, ends_s = f"judge at {self.url}{path}", time.monotonic() + self._timeout_s
        if not self._room.acquire(timeout=self._timeout_s):
            raise ServerFault(f"{where}: all places were taken for {self._timeout_s:g} s; raise judge.in_flight")
        try:
            with self._client.stream("GET" if body is None else "POST", self.url + path, json=body) as answer:
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > LARGEST_ANSWER_BYTES:
                        raise ServerFault(f"{where}: an answer of more than {LARGEST_ANSWER_BYTES >> 20} MiB")
                    if time.monotonic() > ends_s:  # it drips: every piece in time, the whole never
                        raise Unreachable(f"{where}: no whole answer within {self._timeout_s:g} s")
        except httpx.TimeoutException as error:
            raise Unreachable(f"{where}: no answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{where}: {reason}; does a server listen there?", passing=True) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Unreachable(f"{where}: is no address ({error})") from error
        finally:
            self._room.release()
        if not answer.is_success:
            passing = answer.status_code == 429 or answer.status_code >= 500
            said = " ".join(bytes(content[:200]).decode("utf-8", "replace").split())[:120]
            raise ServerFault(f"{where}: status {answer.status_code} ({said})", passing)
        try:
            return json.loads(bytes(content))
        except (ValueError, RecursionError) as error:
            raise ServerFault(f"{where}: no JSON in its answer ({str(error)[:60]})") from error


class Dialect(Protocol):
    """What differs from server to server."""

    about: str

    def score(self, prompts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> list[list[Mapping]]:
        """For every prompt and each of its places: log-probabilities by token of what follows the token there.

        ``prompts`` end with an answer, so that no place is a prompt's last.
        """

    def next(self, text: Sequence[int]) -> int:
        """The likeliest token after a text."""


class ServedEngine:
    """A judge behind a server.

    Parameters
    ----------
    dialect : how that server is asked.
    letters : the token of each viseme.
    """

    def __init__(self, dialect: Dialect, letters: Sequence[int]) -> None:
        self._dialect, self._letters = dialect, list(letters)
        self.about = dialect.about

    def open(self) -> "ServedSession":
        """Begin one recording."""
        return ServedSession(self)

    def rows(self, text: Sequence[int], branches: Sequence[Branch]) -> tuple[list[Float32[Tensor, "asked 15"]], int]:
        """See `Session.rows`; and how many tokens were sent."""
        prompts = [[*text, *branch.tokens, self._letters[0]] for branch in branches]
        places = [[len(text) + end - 1 for end in branch.ends] for branch in branches]
        with self._of_its_form():
            scored = self._dialect.score(prompts, places)
        if [len(rows) for rows in scored] != [len(own) for own in places]:
            raise ServerFault(f"judge ({self.about}): another number of rows than was asked for")
        return [torch.tensor([self._row(found) for found in rows]) for rows in scored], sum(map(len, prompts))

    def _row(self, found: Mapping[int, float]) -> list[float]:
        """The letters' log-probabilities of one place."""
        missing = [letter for letter in self._letters if letter not in found]
        if missing:
            raise ServerFault(
                f"judge ({self.about}): {len(missing)} of {len(self._letters)} letters are missing, token {missing[0]} "
                "first; it can not score them"
            )
        values = [found[letter] for letter in self._letters]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise ServerFault(f"judge ({self.about}): a letter's log-probability is no finite number: {values[:3]}")
        if sum(math.exp(min(value, 1.0)) for value in values) > MORE_THAN_ALL:
            raise ServerFault(f"judge ({self.about}): its log-probabilities add up to more than 1: {values[:3]}")
        return values

    def next(self, text: Sequence[int]) -> int:
        """See `Session.next`."""
        with self._of_its_form():
            return self._dialect.next(text)

    @contextmanager
    def _of_its_form(self) -> Iterator[None]:
        """Whatever an answer may hold in place of what it should: one line."""
        try:
            yield
        except ServerFault:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise ServerFault(f"judge ({self.about}): an answer of another form ({str(error)[:60]})") from error


class ServedSession:
    """See `Session`; the server's own prefix cache is what is remembered."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine
        self.passes = 0
        self.tokens_read = 0

    def fork(self) -> "ServedSession":
        """See `Session.fork`."""
        return copy(self)

    def rows(self, text: Sequence[int], branches: Sequence[Branch]) -> list[Float32[Tensor, "asked 15"]]:
        """See `Session.rows`: one request."""
        rows, sent = self._engine.rows(text, branches)
        self.passes += 1
        self.tokens_read += sent
        return rows

    def next(self, text: Sequence[int]) -> int:
        """See `Session.next`."""
        token = self._engine.next(text)
        self.passes += 1
        self.tokens_read += len(text)
        return token


def field(answer: object, *path: str | int) -> object:
    """What stands in an answer under keys and indices.

    Raises
    ------
    ServerFault : it is not there.
    """
    found = answer
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError) as error:
            raise ServerFault(f"judge: an answer without {'.'.join(map(str, path))}; is it another server?") from error
    return found


def listed(answer: object, length: int, what: str) -> list:
    """A list of that length.

    Raises
    ------
    ServerFault : anything else.
    """
    if not isinstance(answer, list) or len(answer) != length:
        got = f"{len(answer)}" if isinstance(answer, list) else type(answer).__name__
        raise ServerFault(f"judge: {what}: expected {length}, got {got}")
    return answer


def told(server: Server, path: str, *keys: str | int) -> str:
    """A word that a server says of itself, "unknown" where it does not.

    Raises
    ------
    Unreachable : nobody answers.
    """
    try:
        return str(field(server.ask(path), *keys))
    except Unreachable:
        raise
    except ServerFault:
        return "unknown"
