"""Pictures and charts of the report."""
