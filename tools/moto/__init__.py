"""moto's own tests of Kinesis, run against the client in the process and against the real server."""
