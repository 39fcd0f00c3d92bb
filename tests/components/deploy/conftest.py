"""What tests of deploy need: an S3 server."""

from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures
