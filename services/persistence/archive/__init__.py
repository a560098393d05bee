"""Archive: old publications go from the store to objects in a directory or bucket.

Purpose. A log that is kept for years is read at its end. What is old need not be where each write goes: it is as good
in compressed, encrypted files, as long as nobody who reads can tell.

Rules.

* A *segment* is some consecutive publications of one channel, 10,000 and 8 MiB at most, all older than the namespace's
  `archive_after_days`. It is one object: gzip of JSON lines, encrypted with a key of its own (`segment.py`). The newest
  publication of a channel is never archived.
* The store has the *manifest* of each segment: which offsets, the name, digest and key of the object (`ports.py`).
  Objects are never changed.
* The order is: write the object, read it back and compare, put the manifest unless anything was erased or removed
  meanwhile, then delete rows (`archiver.py`). So at every moment the store or a manifest has each publication. What
  has no manifest is garbage (`garbage.py`).
* The place of the objects is marked, and is used only if the mark is there (`place.py`).
* A read takes each stretch of offsets from where it is, in one step with the look whether it is archived (`pages.py`).
  A segment that can't be read fails the page: it is never shorter, and has no hole.
* What is erased is replaced at once for readers, by a note in the store. Seconds later the segment is written again
  without it, under a new key, and the old object is deleted (`erasing.py`). A removal does the same to a segment that
  it takes a part of, before rows are deleted.
* The first and the last row of a segment stay in the store, without content. Versions that do not know the archive
  fail there. A read of theirs whose bounds are both within a segment finds nothing: they must not run beside it.

Example. 1 to 25,000 are old enough. The archiver writes 1 to 10,000, then 10,001 to 20,000, then 20,001 to 25,000. A
page from 24,990 has 10 publications of the third object and the rest of the table. The message 7 is deleted: readers
get its tombstone from the note, then the first object is replaced.

Trade-offs. A page from the archive costs reading and decoding a whole segment; 64 MiB of decoded ones are kept. What
becomes old little by little waits until 1,000 publications or 1 MiB are old enough. See docs/decisions/0065.
"""
