"""Detectors: each in a process and an environment of its own, writing pose2d messages."""
