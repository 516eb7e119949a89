"""What every recipe should stand above: classifiers of frozen features, and interpolated weights."""
