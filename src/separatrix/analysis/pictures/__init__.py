"""Phase portraits and flow maps."""
