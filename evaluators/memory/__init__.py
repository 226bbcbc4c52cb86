"""Parameters, bytes on disk, highest resident memory."""
