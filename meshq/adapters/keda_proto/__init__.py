"""KEDA's external scaler contract as protobuf messages: `externalscaler.proto`, and what protoc makes of it (`make proto`)."""
