"""What tests of stores need: an S3 server, and KServe."""

from kserve_stub import kserve  # noqa: F401 - a fixture
from s3_server import between, bucket, environment, s3_server  # noqa: F401 - fixtures
