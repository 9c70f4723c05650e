"""Can a grammar be compiled in time? Tried in a process that may break, before the server does it.

llguidance's compiler has no bound: a few lines may take it hours, and references behind references
more stack than a thread has, which ends the process. No thread could be ended, and no such end be
caught; a process is replaced. Knows nothing of requests.

    python -m serving.engine.trials   reads the vocabulary, then grammars, and answers, a line each
"""

import asyncio
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE, Popen

from serving.engine.grammars import Grammars
from serving.request import Grammar, GrammarError, GrammarKind

MOST_SECONDS = 2.0
"""Of a core, for a grammar and the first of its masks: the largest schemas that people write take
some tenths of it. Should a grammar not be kept, a worker compiles it anew, and its rows wait."""

STACK_BYTES = 2 * 2**20
"""Of a trial: a quarter of what threads of the server have, so that none of those overflows."""


class Trials:
    """Tries grammars that are not kept, one after another. Safe to share between threads."""

    def __init__(self, grammars: Grammars) -> None:
        """Start the process; it is ready some tenths of a second later."""
        self._grammars = grammars
        self._pool = ThreadPoolExecutor(1, "grammar-trials")
        self._process: Popen[str] | None = None
        self._pool.submit(self._running)

    async def check(self, grammar: Grammar) -> None:
        """Have a grammar compiled; GrammarError says why it cannot be, or not in time."""
        if not self._grammars.keeps(grammar):
            await asyncio.get_running_loop().run_in_executor(self._pool, self._try, grammar)

    def close(self) -> None:
        """End the process and its thread; what is being tried comes to its end before."""
        self._pool.shutdown(cancel_futures=True)
        if self._process is not None:
            self._process.communicate()

    def _try(self, grammar: Grammar) -> None:
        if self._grammars.keeps(grammar):
            return
        process = self._running()
        said = _asked(process, json.dumps([grammar.kind, grammar.text]))
        if not said:
            self._process = None
            self._pool.submit(self._running)
            process.communicate()
            late = process.returncode == -signal.SIGPROF
            why = f"takes more than {MOST_SECONDS:g} s to compile" if late else "is nested too deep"
            raise GrammarError(f"it {why}; make it simpler")
        problem: str | None = json.loads(said)
        if problem is not None:
            raise GrammarError(problem)
        self._grammars.start(grammar)

    def _running(self) -> Popen[str]:
        """Return the process, another one if it has ended; RuntimeError if none can begin."""
        if self._process is None or self._process.poll() is not None:
            # In a session of its own: an interrupt of the server's is for the server to handle.
            self._process = Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=PIPE,
                stdout=PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            pieces = [piece.decode("latin-1") for piece in self._grammars.pieces]
            if not _asked(self._process, json.dumps([pieces, sorted(self._grammars.special_ids)])):
                self._process.communicate()
                raise RuntimeError("the process that tries grammars does not start")
        return self._process


def _asked(process: Popen[str], line: str) -> str:
    """Return the line with which a process answers one; "" if it ends instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(line, file=process.stdin, flush=True)
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


def main() -> None:
    """Answer until the input ends: null for a grammar that can be followed, else why it cannot.

    Whatever takes too long ends the process by SIGPROF.
    """
    pieces, special_ids = json.loads(sys.stdin.readline())
    grammars = Grammars([piece.encode("latin-1") for piece in pieces], special_ids)
    threading.stack_size(STACK_BYTES)
    _say("ready")
    for line in sys.stdin:
        kind, text = json.loads(line)
        answers: list[str | None] = []
        thread = threading.Thread(
            target=lambda kind=kind, text=text, answers=answers: answers.append(
                _problem(grammars, Grammar(GrammarKind(kind), text))
            )
        )
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        thread.start()
        thread.join()
        _say(json.dumps(answers.pop()))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _problem(grammars: Grammars, grammar: Grammar) -> str | None:
    try:
        grammars.check(grammar)
    except ValueError as error:
        return str(error)
    finally:
        grammars.forget(grammar)
    return None


if __name__ == "__main__":
    main()
