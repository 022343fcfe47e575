"""Sessions to lifters: data, models, losses, the training loop, evaluation, the demo."""
