"""reports/export."""
