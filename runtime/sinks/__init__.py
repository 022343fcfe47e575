"""Where lifted poses go."""
