"""What handlers share: errors they may raise, and label files."""
