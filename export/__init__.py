"""A module it is handed to ONNX, parity, bundle."""
