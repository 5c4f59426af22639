"""Cards, metric and Space for the Hub."""
