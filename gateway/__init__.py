"""The gateway: the only package that knows gRPC or reads the configuration. The life of a request is in `gateway.pipeline`."""
