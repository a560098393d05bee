"""Methods on conversations: what `ChatService.Call` executes.

Their names are in `services/shared/chat_methods.py`. Those that write make an event and hand it to the appender, which
decides. Those that read answer for one position of the log, which they tell as `as_of`. `context` has what all have in
common, `registry` the table.
"""
