"""Fuzzing of everything that reads files of others; README.md says how. No part of the installed package."""
