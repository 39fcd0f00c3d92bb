"""What tests of stores need: an S3 server."""

from s3_server import between, bucket, environment, s3_server  # noqa: F401 - fixtures
