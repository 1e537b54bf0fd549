"""What compression costs: size, latency and quality of a built model."""
