"""An imitation of S3 on loopback: moto's server, in a process of its own.

Not in a thread of the tests: a library in C that held the interpreter while it waits would wait for ever.
"""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import boto3
import pytest

from syncworker.exports.targets import S3Access
from tests.ground.postgres import free_port
from tests.ground.processes import die_with_parent

BUCKET = "exports-of-ours"
KEY, SECRET = "AKIAOFATESTXXXXXXXXX", "secret-of-a-test-xxxxxxxxxxxxxxxxxxxxxxx"
_START_DEADLINE_S = 60


@pytest.fixture(scope="session")
def bucket() -> Iterator[S3Access]:
    """An object store with one bucket."""
    port = free_port()
    access = S3Access(
        endpoint=f"http://127.0.0.1:{port}", region="me-central-1", access_key=KEY, secret_key=SECRET
    )  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
    )
    try:
        _await(server, f"{access.endpoint}/moto-api/")
        boto3.client(
            "s3", endpoint_url=access.endpoint, region_name=access.region, aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        ).create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "me-central-1"})  # fmt: skip
        yield access
    finally:
        server.kill()
        server.wait(10)


def _await(server: "subprocess.Popen[bytes]", address: str) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        assert server.poll() is None, "moto's server ended at once"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.05)
