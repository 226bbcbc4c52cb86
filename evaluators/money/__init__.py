"""What serving and training cost."""
