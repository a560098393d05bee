"""How many messages users have not read, and how many of them mention the user.

`counts` answers from what is recent in a conversation (`chat/recent.py`), and `reading` has the log tell what is not.
"""
