"""The index of messages in DynamoDB: sealed blocks; `index.py` has the design."""
