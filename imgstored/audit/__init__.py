"""The deep check: reads every image to its end, and finds what belongs to no image."""
