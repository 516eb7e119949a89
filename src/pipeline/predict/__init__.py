"""What a trained model says of images of one's own."""
