"""Create encoders and heads by name, or as options describe them."""
