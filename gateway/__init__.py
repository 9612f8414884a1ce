"""The gateway: the only package that knows gRPC or reads the configuration. A request lives in
`gateway.request.pipeline`.
"""
