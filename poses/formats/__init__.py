"""File formats of other tools: one module each, read into and written from the package's own arrays."""
