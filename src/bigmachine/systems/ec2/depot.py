"""A bucket of S3 as a depot: bundles and packs are kept there by their hashes, and hosts fetch them by signed URLs.

So hosts need no rights of their own, and what another session has put there need not be sent again. A bucket that
fails is given up, with a warning: everything goes without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_log = logging.getLogger("bigmachine")
#: Seconds that a URL is good for: a host fetches at once.
_GOOD: Final = 3600


class S3Depot:
    """Keeps things in `place`: a bucket of the region, and perhaps a prefix in it ("bucket/prefix")."""

    def __init__(self, api: Api, place: str) -> None:
        self._api = api
        self._bucket, _, prefix = place.removeprefix("s3://").partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._has_failed = False

    def url(self, sha256: str, content: Callable[[], bytes]) -> str:
        """Give a URL from which hosts get what has this hash; "" if the bucket does not work."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self._has_failed:
            return ""
        key = f"{self._prefix}bigmachine/v1/{sha256}"
        try:
            with self._lock:  # several hosts lack the same, and it is put there once
                if key not in self._there:
                    self._bring(key, content)
                    self._there.add(key)
            client = self._api.client("s3")
            where = {"Bucket": self._bucket, "Key": key}
            return str(client.generate_presigned_url("get_object", Params=where, ExpiresIn=_GOOD))
        except (BotoCoreError, ClientError) as error:
            self._has_failed = True
            _log.warning(
                "ec2: the bucket %r cannot be used, and everything is sent from here: %s; it has to be in %s, and this "
                "account needs s3:GetObject, s3:PutObject and s3:ListBucket there",
                self._bucket,
                error,
                self._api.region,
            )
            return ""

    def _bring(self, key: str, content: Callable[[], bytes]) -> None:
        from botocore.exceptions import ClientError

        client = self._api.client("s3")
        try:
            client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            client.put_object(Bucket=self._bucket, Key=key, Body=content())


__all__ = ["S3Depot"]
