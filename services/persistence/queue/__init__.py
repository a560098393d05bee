"""Queue between persistence and the store (PERSISTENCE_QUEUE=sqs).

Purpose. What was acknowledged early (durability `queued`) is written to the store by workers, as many as the load
needs, in place of the processes that acknowledge. A store that is slow for a while fills a queue that has no limit.

Rules.

* Redis stays the truth about what is not stored. Persistence sends rows to the queue, looks what the store has, and
  only then notes in Redis that they are stored (`outbox.py`). So nothing depends on what becomes of a message: lost,
  twice, late, in another order, or in the dead-letter queue.
* What the store does not have 5 s after it was sent, persistence stores itself, past the queue. So does a publication
  that must be stored before it is acknowledged, with all in front of it.
* A worker (`worker.py`) has no connection to Redis. It stores the rows of a message (`storing.py`), and deletes the
  message afterwards. Rows that are stored already are a success. Rows of an epoch that is over are dropped.
* Rows whose predecessors are missing, and rows that the store can't take now, come again. After five receipts SQS puts
  the message into its dead-letter queue; so it does with what nobody can decode.
* A row that is too large for a message is stored by persistence itself.

Example. Rows 8 to 30 are sent in two messages, and the second one arrives first. Its worker finds 22 missing and leaves
it; it comes again after 5 s, and is stored then. Persistence sees that the store has 30.

Trade-offs. Persistence asks the store what it has, for each channel with something under way, and reads the entries
again for that. Workers could tell Redis instead, but then a function in AWS would need a way to Redis. See
docs/decisions/0063.
"""
