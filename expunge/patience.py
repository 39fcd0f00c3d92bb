"""Waiting for a service that went away: with growing waits, no two alike, up to a deadline."""

import random
import time

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0  # seconds: the upper end of the first wait, and of any


class Patience:
    """How long one thing is waited for, counted from when it was first missed."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until, self._upper = seconds, float("inf"), FIRST_WAIT

    def wait(self) -> bool:
        """Waits for a moment, after which to try again; False, at once, if the time is over."""
        now = time.monotonic()
        self._until = min(self._until, now + self._seconds)
        if now >= self._until:
            return False
        # So that all who miss the same service do not come back as one.
        time.sleep(min(random.uniform(self._upper / 2, self._upper), self._until - now))
        self._upper = min(2 * self._upper, LONGEST_WAIT)
        return True
