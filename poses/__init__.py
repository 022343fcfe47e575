"""The ground floor, numpy only: skeletons, cameras, recordings, sessions, windows, file formats, metrics, the studio."""
