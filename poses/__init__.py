"""The ground floor, numpy only: skeletons, cameras, recordings, sessions, windows, formats, metrics, studio."""
