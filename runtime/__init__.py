"""What ships to the device: bundle + stream -> poses. No torch, no scipy, no onnx package."""
