"""reports/page."""
