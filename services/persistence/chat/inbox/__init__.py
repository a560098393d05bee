"""Inboxes: the conversations of a user by last activity, and what changed in them.

Purpose. An application opens with the list of conversations: what was said last, how much is unread. It is asked for
by everybody who connects, so it must cost no request to the store, and nothing per member when somebody writes.

Where things are:

* `heads.py`: what inboxes show of a conversation, at one position of its log, and how the next rows change it.
* `kept_heads.py`, `put_head.lua`: heads in Redis, read for many conversations at once.
* `reading.py`: a head from the conversation itself, where Redis does not have it.
* `lists.py` and its scripts (`*_list.lua`): the list of a user's conversations in Redis, and when it is not used.
* `cursors.py`: places in pages, and positions of the feed since which something is asked.
* `inbox.py`: puts them together.

Rules.

* A head holds for the position that it names. If the log says more, the rows behind it are read from Redis and taken
  in; where that needs more than the rows (an edit, a delete, a name), the conversation is asked.
* Nobody is shown a conversation on the word of the list: a membership counts only if nothing that may take rights away
  (flag 2) has come since it was looked up. Else it is looked up again, at the head's position or later.
* A preview is a message's text. An event that erases something takes the head out of Redis in the same script that
  makes it readable (`commit.lua`), and a head is put there only while its position is that of the log (`put_head.lua`).
  So nothing that was deleted is shown, or stays there.
* Pages are ordered by activity and channel. Activity only grows, so nothing is in two pages; what moved up meanwhile is
  in the answer to `since`, which is as of the first page.

Example. Anna has 300 conversations. Her inbox takes three round trips to Redis: her list and the ends of the feed;
metas and her markers, and heads where none is remembered; the rows behind two heads, where something was said since.

Trade-offs. All heads of a user are read for each page, as the order is not kept anywhere: at most 1,000
conversations of a user are looked at. See docs/decisions/0059.
"""
