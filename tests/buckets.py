"""A real server of S3's protocol on loopback, with buckets of one's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": "c4n4ry-of-the-mine", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def server() -> Iterator[dict[str, str]]:
    """Environment that leads to a server, as long as it is there. Servers of one process share their buckets."""
    from moto.server import ThreadedMotoServer

    one = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    try:
        yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}"} | KEYS
    finally:
        one.stop()


def make(environment: Mapping[str, str], bucket: str) -> None:
    """An empty bucket."""
    _client(environment).create_bucket(Bucket=bucket)


def put(environment: Mapping[str, str], path: str, content: bytes) -> None:
    """An object at ``bucket/key``, whatever the key."""
    bucket, _, key = path.partition("/")
    _client(environment).put_object(Bucket=bucket, Key=key, Body=content)


def upload(environment: Mapping[str, str], folder: Path, path: str) -> None:
    """All files of a folder, below ``bucket/key``."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            put(environment, f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


@functools.cache
def _of(url: str) -> Any:
    import boto3

    key, secret, region = KEYS.values()
    more = {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": region}
    return boto3.client("s3", endpoint_url=url, **more)


def _client(environment: Mapping[str, str]) -> Any:
    return _of(environment["AWS_ENDPOINT_URL"])
