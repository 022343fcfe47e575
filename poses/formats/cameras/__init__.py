"""Camera files of other tools: a module each, all read into `poses.cameras.Camera` and metres."""
