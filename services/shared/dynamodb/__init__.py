"""Client, tables and settings of DynamoDB, shared by persistence and auth."""
