"""Features of test images in the plane (Core-tuning, Figure 1 and supplement C.1; COIN, Figure 2)."""
