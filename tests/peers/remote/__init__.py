"""Both ends of gRPC, by the `grpcio` package. Messages are plain bytes: no schema is needed to talk through a gateway."""
