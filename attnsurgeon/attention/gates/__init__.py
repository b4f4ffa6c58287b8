"""Gates: y = x * gate(x), of the shape of x."""
