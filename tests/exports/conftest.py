"""An imitation of S3 on loopback: moto's server."""

from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from syncworker.exports.targets import S3Access

BUCKET = "exports-of-ours"
KEY, SECRET = "AKIAOFATESTXXXXXXXXX", "secret-of-a-test-xxxxxxxxxxxxxxxxxxxxxxx"


@pytest.fixture(scope="session")
def store() -> Iterator[S3Access]:
    """An object store with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = S3Access(endpoint=f"http://{host}:{port}", region="me-central-1", access_key=KEY, secret_key=SECRET)
    boto3.client(
        "s3", endpoint_url=access.endpoint, region_name=access.region, aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    ).create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "me-central-1"})  # fmt: skip
    yield access
    server.stop()
