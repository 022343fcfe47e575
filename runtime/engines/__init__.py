"""TensorRT engines: building, reading, refitting. One seam over every TensorRT that a device may have."""
