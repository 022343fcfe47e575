"""Where live keypoints come from."""
