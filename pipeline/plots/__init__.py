"""Every static figure, from saved tables only."""
