"""Sessions to cameras, and sessions to number ranges. Empty until the first of them is built."""
