"""What selection picks: classes of a dataset, clusters of its features, or its images, each with its mean."""
