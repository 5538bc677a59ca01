"""How protocols read images and show them to a network, and keep what it made of them."""
