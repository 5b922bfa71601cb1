"""Reports of gates: for people, for other programs, and for the services that run them."""
