"""A token bucket: how often something may be done. Pure."""

from __future__ import annotations


class TokenBucket:
    """Gives `rate` tokens a second; up to `burst` may be saved up."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> float:
        """Take a token, and give the seconds to wait until it is there: 0 if it is already."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)


__all__ = ["TokenBucket"]
