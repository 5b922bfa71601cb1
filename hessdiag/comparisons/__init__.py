"""Two networks, or two reports on them, side by side: what changed and how surely."""
