"""The demo page, on this machine or as a Space of the Hub."""
