"""The provider's API: every call through a token bucket, asked again where that is sensible, and bounded in time.

There is a bucket for what only asks and one for what changes something, as the provider counts them, too: a purchase
does not wait for the questions before it.

botocore would ask again by itself, also when there is no capacity, and would not come by the bucket; so that is
switched off, and each attempt is made here. A call that buys something has a client token, so that a second attempt
after a lost answer buys nothing twice. Everything blocks: for threads.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2.bucket import TokenBucket
from bigmachine.systems.ec2.failures import Kind, Refused

#: Calls a second, and how many at once, as in Go.
RATE, BURST = 1.0, 2.0
#: What has to be asked before a purchase takes five questions, and would wait for its turn for two seconds.
_QUESTIONS: Final = 5.0
_ASKS: Final = ("describe_", "get_")
#: Seconds between attempts: doubled each time, up to the most.
_PAUSE, _MOST = 1.0, 10.0
#: How often: a throttled call is asked again for as long as there is time.
_ATTEMPTS: Final = 4
_TIMEOUT: Final = 60.0
#: Prices are told in this region only.
_PRICES: Final = "us-east-1"


class Api:
    """One account's API in one region. `session` is a boto3 Session (default: by the environment, as boto3 finds it).

    Raises:
        ProvisionError: if boto3 is not installed, or no region is chosen.
    """

    def __init__(self, session: Any = None, region: str = "") -> None:
        try:
            import boto3
        except ImportError as error:
            raise ProvisionError(
                f"machines on EC2 need the package boto3 ({error}): pip install 'bigmachine[ec2]'"
            ) from error
        with _told("reading the configuration"):
            self._session = session or boto3.session.Session(region_name=region or None)
        self.region = region or self._session.region_name or ""
        if not self.region:
            raise ProvisionError("ec2: no region is chosen: set --bigm.ec2region, AWS_REGION or one in ~/.aws/config")
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, bool], TokenBucket] = {}
        self.closing = threading.Event()

    def client(self, service: str) -> Any:
        """Return the client of a service; making one takes a moment, and is not safe in several threads at once."""
        with self._lock:
            if service not in self._clients:
                from botocore.config import Config

                retries = {"total_max_attempts": 1, "mode": "standard"}
                config = Config(retries=retries, connect_timeout=5, read_timeout=20, max_pool_connections=20)
                region = _PRICES if service == "pricing" else self.region
                if service == "s3":
                    config = config.merge(Config(signature_version="s3v4"))  # older signatures of URLs are refused
                with _told("reading the configuration"):
                    self._clients[service] = self._session.client(service, region_name=region, config=config)
            return self._clients[service]

    def call(
        self, action: str, *, service: str = "ec2", timeout: float = _TIMEOUT, is_last: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        """Make a call such as "describe_instances". `is_last`: it has to be made at once, also while we are closing.

        Raises:
            Refused: if the API says no, and will not say yes within `timeout` seconds.
            ProvisionError: if it cannot be reached, or there are no credentials.
        """
        method = getattr(self.client(service), action)
        name = "".join(part.capitalize() for part in action.split("_"))
        end, pause, tries = time.monotonic() + timeout, _PAUSE, 0
        while True:
            self._wait(service, action.startswith(_ASKS), is_last)
            tries += 1
            try:
                with _told(name):
                    result: dict[str, Any] = method(**arguments)
                    return result
            except Refused as refused:
                again = refused.kind is Kind.THROTTLED or (refused.kind is Kind.TRANSIENT and tries < _ATTEMPTS)
                if not again or time.monotonic() + pause > end:
                    raise
            except ProvisionError as error:
                if not error.temporary or tries >= _ATTEMPTS or time.monotonic() + pause > end:
                    raise
            if self.closing.wait(pause * random.uniform(0.75, 1.25)) and not is_last:  # noqa: S311 (spreads calls)
                raise _closed()
            pause = min(_MOST, 2 * pause)

    def pages(self, action: str, key: str, most: int = 20, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the items below `key` of all pages of an answer, `most` pages at most.

        Raises:
            Refused, ProvisionError: as `call`.
        """
        for _ in range(most):
            answer = self.call(action, **arguments)
            yield from answer.get(key, ())
            token = answer.get("NextToken")
            if not token:
                return
            arguments["NextToken"] = token

    def _wait(self, service: str, is_question: bool, is_last: bool) -> None:
        with self._lock:
            now = time.monotonic()
            fresh = TokenBucket(RATE, _QUESTIONS if is_question else BURST, now)
            bucket = self._buckets.setdefault((service, is_question), fresh)
            wait = bucket.take(now)
        if wait and not is_last and self.closing.wait(wait):
            raise _closed()

    def close(self) -> None:
        """Let go of connections; calls that wait for their turn fail."""
        self.closing.set()
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


def _closed() -> ProvisionError:
    return ProvisionError("this ec2 system was shut down; make a new one")


class _told:  # noqa: N801 (a context manager is used like a function)
    """Translates botocore's exceptions, here and nowhere else."""

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        if isinstance(error, boto.ClientError):
            raise Refused.of(self._action, error.response) from error
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
            raise ProvisionError(
                f"ec2: there are no credentials for AWS ({error}): set AWS_PROFILE, or log in as by `aws configure` "
                "or `aws sso login`"
            ) from error
        expired = (
            boto.TokenRetrievalError,
            boto.SSOError,
            boto.CredentialRetrievalError,
            boto.RefreshWithMFAUnsupportedError,
        )
        if isinstance(error, expired):
            raise ProvisionError(f"ec2: the credentials for AWS cannot be had: {error}; log in again") from error
        if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.InvalidRegionError):
            raise ProvisionError(f"ec2: the configuration of AWS is wrong: {error}") from error
        if isinstance(error, boto.ParamValidationError):
            raise ProvisionError(f"ec2: {self._action} was not asked: {error}") from error
        if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
            raise ProvisionError(
                f"ec2: {self._action}: the API does not answer: {error}; is the network up, and the region right?",
                temporary=True,
            ) from error
        if isinstance(error, ResponseParserError):  # a proxy's page, or half of an answer
            raise ProvisionError(
                f"ec2: {self._action}: the API's answer cannot be read ({_first_line(error)}); does a proxy answer in "
                "its place?",
                temporary=True,
            ) from error
        if isinstance(error, boto.BotoCoreError):
            raise ProvisionError(f"ec2: {self._action}: {error}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


__all__ = ["BURST", "RATE", "Api"]
