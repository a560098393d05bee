"""DynamoDB as Thalamus uses it: settings, tables, and calls that are bounded and repeated with care."""
